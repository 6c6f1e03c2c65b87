"""A team's server, as `REBAKE_SERVER` and `REBAKE_TOKEN` name it."""

from __future__ import annotations

import http.client
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from rebake.errors import RebakeError, Transient, UsageError

VARIABLE = "REBAKE_SERVER"
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True, slots=True)
class Remote:
    """Where it is, and what is shown to it."""

    secure: bool
    host: str
    port: int
    token: str = field(repr=False)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.secure else 'http'}://{host}:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"}

    def connection(self, timeout: float) -> http.client.HTTPConnection:
        """Certificates are verified, by the machine's authorities or those of `SSL_CERT_FILE`."""
        if not self.secure:
            return http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        import ssl

        return http.client.HTTPSConnection(self.host, self.port, timeout=timeout, context=ssl.create_default_context())

    def away(self, error: OSError) -> RebakeError:
        """What a failed connection means. `ssl` is loaded only if it had a part in it."""
        verified = type(error).__name__ == "SSLCertVerificationError"
        said = getattr(error, "verify_message", "") if verified else error.strerror or str(error)
        if verified:
            return UsageError(
                "server-not-trusted",
                f"the server's certificate cannot be verified: {said}",
                where=str(self),
                remedy="export SSL_CERT_FILE=FILE, with the certificate of the authority that signed it",
            )
        return Transient(
            "server-away",
            f"the server cannot be reached: {said}",
            where=str(self),
            remedy=f"check that it runs and that {VARIABLE} names it; what serves users does not depend on it",
            retry_after_seconds=2.0,
        )


def remote_from(environ: Mapping[str, str] = os.environ) -> Remote | None:
    """The server that the environment names; None when it names none: then the agent of this machine is meant.

    Raises: UsageError `wrong-server`, `no-token`.
    """
    said = environ.get(VARIABLE, "").strip()
    if not said:
        return None
    try:
        found = urlsplit(said)
        host, port = found.hostname or "", found.port
    except ValueError:
        host, port = "", None
    plain = found.scheme == "http" and host in LOOPBACK
    if not host or not (found.scheme == "https" or plain) or found.path not in ("", "/") or found.query:
        raise UsageError(
            "wrong-server",
            f"expected https://HOST:PORT, found {said!r}",
            where=VARIABLE,
            remedy="plain http is spoken with this machine's loopback only, because a token goes with each request",
        )
    secure = found.scheme == "https"
    return Remote(secure, host, port or (443 if secure else 80), _token(environ))


def _token(environ: Mapping[str, str]) -> str:
    token, path = environ.get("REBAKE_TOKEN", "").strip(), environ.get("REBAKE_TOKEN_FILE", "")
    if path and not token:
        try:
            token = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = (error.strerror or str(error)) if isinstance(error, OSError) else "it is not UTF-8 text"
            raise UsageError("no-token", f"the token cannot be read: {reason}", where=path) from error
    if not token or not token.isascii() or not token.isprintable():
        raise UsageError(
            "no-token",
            "expected a token for the server, found " + ("unusable characters" if token else "none"),
            where="REBAKE_TOKEN, REBAKE_TOKEN_FILE",
            remedy="export REBAKE_TOKEN=… (whoever runs the server gives it out)",
        )
    return token
