"""Reading requests: bodies, parameters and versions, refused with a sentence when they do not fit."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request

from rebake import __version__
from rebake.errors import RebakeError, UsageError
from rebake.server.replies import VERSION_HEADER

CALLER = "rebake.caller"
"""In the scope of a request from afar: the name of its token."""
FROM_AFAR = "from_afar"
"""In the document of a request from afar: true."""
MAX_BODY_BYTES = 4 << 20


class OtherVersion(UsageError):
    """The caller is another version of rebake; nothing was done. The command line restarts the agent or refuses."""

    def __init__(self, caller: str) -> None:
        super().__init__(
            "agent-of-another-version",
            f"the agent is rebake {__version__}, the caller is rebake {caller}",
            remedy="rebake agent stop",
        )


def check_version(request: Request) -> None:
    """Raises: OtherVersion when the caller says that it is another version. A caller who says nothing is let in."""
    caller = request.headers.get(VERSION_HEADER)
    if caller is not None and caller != __version__:
        raise OtherVersion(caller)


async def body_of(request: Request) -> dict[str, Any]:
    """The JSON object in the body; an empty body is an empty object. Who came from afar is named by the token.

    Raises: UsageError.
    """
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_BODY_BYTES:
            raise UsageError("request-too-large", f"expected a body of at most {MAX_BODY_BYTES} bytes, found more")
    try:
        doc = json.loads(data or b"{}")
    except ValueError as error:
        raise UsageError("request-not-json", f"expected a JSON object as the body: {error}") from error
    if not isinstance(doc, dict):
        raise UsageError("request-not-json", f"expected a JSON object as the body, found {type(doc).__name__}")
    caller = request.scope.get(CALLER)
    if caller is not None:
        doc[FROM_AFAR] = True
        said = doc.get("requested_by")
        doc["requested_by"] = f"{caller}, who says {said}" if said else str(caller)
    return doc


def number(request: Request, name: str, default: int, *, least: int = 0, most: int = 10_000) -> int:
    """An integer parameter. Raises: UsageError naming it and its range."""
    text = request.query_params.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit()) or not least <= int(text) <= most:
        raise UsageError(
            "parameter-invalid", f"expected a whole number from {least} to {most}, found {text!r}", where=name
        )
    return int(text)


def text(request: Request, name: str) -> str | None:
    return request.query_params.get(name) or None


def unknown_call(request: Request) -> RebakeError:
    return UsageError(
        "unknown-call",
        f"the API has no call {request.method} {request.url.path}",
        remedy="docs/api.md lists every call",
    )
