"""The door of a team's server: who comes from afar shows a token, and is called by the token's name from then on.

Whoever holds a token may deploy, but not use the machine that rebake runs on: such a caller's secrets come with the
request, and nothing of it is read from, or run as a program on, the server (`requests.FROM_AFAR`, heeded by the desk).
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from rebake.errors import Permanent, Refused
from rebake.server.replies import refusal
from rebake.server.requests import CALLER

LEAST_TOKEN = 32
"""Characters; 128 bits and more, as hexadecimal digits."""

_LINE = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._@-]{0,62})[ \t]+(?P<token>[!-~]+)")
_OF_THE_MACHINE = ("/v1/agent/stop", "/v1/dashboard")


@dataclass(frozen=True, slots=True)
class Token:
    """What one person, or one pipeline, shows."""

    name: str
    value: str

    def fits(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.value.encode())


class TokenFile:
    """The tokens of a file, one `NAME TOKEN` a line, `#` begins a comment; read again when the file was changed.

    Raises: Permanent `token-file`, by `read` and by the first look.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._tokens: tuple[Token, ...] = ()
        self.read()

    def read(self) -> tuple[Token, ...]:
        """The tokens that hold now. A file that is taken away lets nobody in."""
        try:
            found = self._path.stat()
            seen = (found.st_ino, found.st_mtime_ns, found.st_size)
            if seen != self._seen:
                self._tokens = _tokens_in(self._path.read_text(encoding="utf-8"), self._path)
                self._seen = seen
        except (OSError, UnicodeDecodeError) as error:
            reason = (error.strerror or str(error)) if isinstance(error, OSError) else "it is not UTF-8 text"
            raise _wrong_file(self._path, f"the tokens cannot be read: {reason}") from error
        return self._tokens

    def name_of(self, given: str) -> str | None:
        """Whose token this is. Each one is compared, so that the time tells nothing."""
        return next((name for name in [t.name for t in self.read() if t.fits(given)]), None)


def _tokens_in(text: str, path: Path) -> tuple[Token, ...]:
    tokens: list[Token] = []
    for number, line in enumerate(text.splitlines(), 1):
        said = line.partition("#")[0].strip()
        if not said:
            continue
        match = _LINE.fullmatch(said)
        if match is None:
            raise _wrong_file(path, "expected NAME TOKEN, found another line", number)
        if len(match["token"]) < LEAST_TOKEN:
            raise _wrong_file(
                path, f"expected a token of at least {LEAST_TOKEN} characters, found {len(match['token'])}", number
            )
        tokens.append(Token(match["name"], match["token"]))
    if not tokens:
        raise _wrong_file(path, "expected at least one token, found none")
    return tuple(tokens)


def _wrong_file(path: Path, problem: str, line: int = 0) -> Permanent:
    return Permanent(
        "token-file",
        problem,
        where=f"{path}:{line}" if line else str(path),
        remedy=f'one line for each person or pipeline: echo "ada $(openssl rand -hex 32)" >> {path}',
    )


class Door:
    """Lets in whoever shows a token of the file, under its name."""

    def __init__(self, app: ASGIApp, tokens: TokenFile) -> None:
        self._app = app
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            refused = self._decide(scope)
        except Permanent as error:
            refused = refusal(error)
        await (refused or self._app)(scope, receive, send)

    def _decide(self, scope: Scope) -> Response | None:
        kind, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        name = self._tokens.name_of(given.strip()) if kind.lower() == "bearer" else None
        if name is None:
            said = "expected a token of this server, found " + ("another one" if given else "none")
            response = refusal(
                Refused("server-token", said, remedy="export REBAKE_TOKEN=… (whoever runs the server gives it out)")
            )
            response.status_code = 401
            response.headers["www-authenticate"] = "Bearer"
            return response
        if scope["path"] in _OF_THE_MACHINE:
            response = refusal(
                Refused(
                    "server-only-there",
                    f"{scope['path']} is for whoever is on the machine of the server",
                    remedy="run it there, where REBAKE_SERVER is not set",
                )
            )
            response.status_code = 403
            return response
        scope[CALLER] = name
        return None
