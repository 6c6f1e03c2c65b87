"""A team's server: the agent's API on a TCP port, for whoever has a token, and the pages for supervisors."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from starlette.types import ASGIApp

from rebake.errors import Permanent
from rebake.server.api import Host, api_app
from rebake.server.doors import Door, TokenFile
from rebake.server.ports import Application
from rebake.server.wanted import Wanted, parts

_WAITING = 128


def listen(address: str) -> socket.socket:
    """A listening socket. Raises: Permanent `address-in-use`; UsageError `wrong-address`."""
    host, port = parts(address)
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=_WAITING
        )
    except OSError as error:
        raise Permanent(
            "address-in-use",
            f"the server cannot listen: {error.strerror}",
            where=address,
            remedy=f"choose another address, or see who has it: ss -ltnp 'sport = {port}'",
        ) from error


class Certificate:
    """The server's TLS, read again when the files were renewed: connections made since see the new one."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._files = (certificate, key)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._seen = self._signs()
        self._load()

    def _signs(self) -> list[tuple[int, int]]:
        try:
            return [(found.st_ino, found.st_mtime_ns) for found in (path.stat() for path in self._files)]
        except OSError:
            return []

    def _load(self) -> None:
        try:
            self.context.load_cert_chain(*self._files)
        except OSError as error:  # ssl.SSLError is one
            raise Permanent(
                "server-certificate",
                f"the certificate cannot be used: {error}",
                where=str(self._files[0]),
                remedy="give a PEM certificate (with its chain) and the private key that belongs to it",
            ) from error

    def renew(self) -> None:
        """Raises: Permanent `server-certificate`; the one before stays in use then."""
        signs = self._signs()
        if signs and signs != self._seen:
            self._load()
            self._seen = signs


@dataclass(frozen=True, slots=True)
class Open:
    """One door that is open: what is served on which socket."""

    app: ASGIApp
    listener: socket.socket
    certificate: Certificate | None = None

    @property
    def url(self) -> str:
        host, port = self.listener.getsockname()[:2]
        return f"{'https' if self.certificate else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def doors(wanted: Wanted, application: Application, host: Host) -> list[Open]:
    """Listen where it is wanted. Raises: UsageError, Permanent; nothing is left open then."""
    wanted.check()
    found: list[Open] = []
    try:
        if wanted.serve is not None and wanted.tokens is not None:
            tokens = TokenFile(wanted.tokens)
            tls = Certificate(wanted.certificate, wanted.key) if wanted.certificate and wanted.key else None
            found.append(Open(Door(api_app(application, host), tokens), listen(wanted.serve), tls))
        if wanted.probes is not None:
            from rebake.server.probes import probes_app  # the agent of one machine never needs it

            found.append(Open(probes_app(application), listen(wanted.probes)))
    except BaseException:
        for door in found:
            door.listener.close()
        raise
    return found
