"""How answers and refusals look on the wire. Pure, but for the log entry of a defect."""

from __future__ import annotations

import json
import logging
import secrets
from typing import Any

from starlette.responses import Response

from rebake import __version__
from rebake.errors import (
    BakeError,
    BrokenInvariant,
    LedgerConflict,
    PlatformError,
    RebakeError,
    Refused,
    SpecError,
    Transient,
    UsageError,
)

log = logging.getLogger("rebake.api")

VERSION_HEADER = "rebake-version"
"""Who sends it says which version of rebake it is, so that two versions never misunderstand each other silently."""

_STATUS: tuple[tuple[type[RebakeError], int], ...] = (
    (UsageError, 400),
    (SpecError, 422),
    (BakeError, 422),
    (Refused, 409),
    (LedgerConflict, 409),
    (Transient, 503),
    (PlatformError, 502),
)


def status_of(error: RebakeError) -> int:
    """The HTTP status of an error: 4xx when the caller can act, 5xx otherwise."""
    if isinstance(error, UsageError) and error.code.startswith("unknown-"):
        return 404
    return next((status for family, status in _STATUS if isinstance(error, family)), 500)


def encode(doc: Any) -> bytes:
    return json.dumps(doc, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def answer(doc: Any, status: int = 200) -> Response:
    headers = {VERSION_HEADER: __version__, "cache-control": "no-store"}
    return Response(encode(doc), status, headers, "application/json")


def refusal(error: RebakeError) -> Response:
    return answer(error.to_json(), status_of(error))


def defect(error: BaseException, what: str) -> BrokenInvariant:
    """Log an unexpected exception whole, and return what the caller is told: a reference into the log."""
    reference = secrets.token_hex(4)
    log.error("defect %s in %s", reference, what, exc_info=error)
    return BrokenInvariant(
        f"{type(error).__name__} in {what}",
        where=f"agent.log, reference {reference}",
        evidence=[str(error)] if str(error) else [],
    )


def as_rebake_error(error: Exception, what: str) -> RebakeError:
    """The error itself when it is one of ours, a defect with a reference otherwise."""
    return error if isinstance(error, RebakeError) else defect(error, what)
