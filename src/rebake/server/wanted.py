"""Where a team's server is to listen, as its command line says it. Cheap to import."""

from __future__ import annotations

import ipaddress
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from pathlib import Path

from rebake.errors import UsageError


@dataclass(frozen=True, slots=True)
class Wanted:
    """Where a server listens beside its Unix socket. Addresses are `HOST:PORT`.

    Attributes:
        serve: of the API; None: nobody comes from afar.
        certificate, key: PEM files of the API's TLS; without them it is served on loopback only.
        tokens: who is let in, see `doors.TokenFile`.
        probes: of `/livez`, `/readyz` and `/metrics`; None: nowhere.
    """

    serve: str | None = None
    certificate: Path | None = None
    key: Path | None = None
    tokens: Path | None = None
    probes: str | None = None

    def words(self) -> list[str]:
        """The same as arguments of the process.

        >>> Wanted(probes="127.0.0.1:9100").words()
        ['--probes', '127.0.0.1:9100']
        """
        found = [(name, getattr(self, name)) for name in self.__slots__]
        return [word for name, value in found if value is not None for word in (f"--{name}", str(value))]

    @classmethod
    def ask(cls, parser: ArgumentParser) -> None:
        """Let a parser know the arguments."""
        for name in ("serve", "probes"):
            parser.add_argument(f"--{name}", metavar="HOST:PORT")
        for name in ("certificate", "key", "tokens"):
            parser.add_argument(f"--{name}", type=Path, metavar="FILE")

    @classmethod
    def told(cls, args: Namespace) -> Wanted:
        return cls(**{name: getattr(args, name) for name in cls.__slots__})

    def check(self) -> None:
        """Raises: UsageError `server-needs-tokens`, `server-needs-certificate`, `wrong-address`."""
        for address in (self.serve, self.probes):
            if address is not None:
                parts(address)
        if self.serve is None:
            return
        if self.tokens is None:
            raise UsageError(
                "server-needs-tokens",
                "expected a file of tokens, found none: everybody who reaches the port could deploy",
                where="--tokens",
                remedy='echo "ada $(openssl rand -hex 32)" > tokens; chmod 600 tokens; and give --tokens tokens',
            )
        if (self.certificate is None or self.key is None) and not _is_loopback(parts(self.serve)[0]):
            raise UsageError(
                "server-needs-certificate",
                f"expected a certificate and its key to serve on {self.serve}, found none: tokens would be readable",
                where="--certificate, --key",
                remedy="give both as PEM files, or serve on 127.0.0.1 behind a proxy that ends TLS",
            )


def parts(address: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`. Raises: UsageError `wrong-address`."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise UsageError(
            "wrong-address",
            f"expected HOST:PORT, found {address!r}",
            where="--serve, --probes",
            remedy="for example 0.0.0.0:8443",
        )
    return host.strip("[]"), int(port)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
