"""One HTTP question, as every source that speaks HTTP asks it."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from rebake.errors import Permanent, Transient

MOST_BYTES = 32 << 20
"""A longer answer is refused: metrics of one service are smaller."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    content_type: str
    text: str


def ask(
    url: str, timeout_ms: int, *, method: str = "GET", headers: Mapping[str, str] | None = None, body: str | None = None
) -> Answer:
    """Ask once; redirections are not followed.

    Raises: Transient `metric-not-answered` when nobody answers in time; Permanent `metric-refused` when the answer is
        too long or no HTTP.
    """
    parts = urlsplit(url)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection = _connection(parts.scheme, parts.hostname or "", parts.port, timeout_ms / 1000)
    try:
        connection.request(method, path, body=body, headers={"User-Agent": "rebake", **(headers or {})})
        answer = connection.getresponse()
        found = answer.read(MOST_BYTES + 1)
    except TimeoutError:
        raise _silent(f"{method} {_shown(url)}: no answer within {timeout_ms / 1000:g}s") from None
    except ssl.SSLError as error:
        raise refused(
            f"{method} {_shown(url)}: {error.reason or error}", "correct the certificate or the URL"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise _silent(f"{method} {_shown(url)}: {error or type(error).__name__}") from error
    finally:
        connection.close()
    if len(found) > MOST_BYTES:
        raise refused(f"{method} {_shown(url)}: expected at most {MOST_BYTES >> 20} MiB, found more", None)
    return Answer(answer.status, answer.headers.get("Content-Type", ""), found.decode("utf-8", "replace"))


def _connection(scheme: str, host: str, port: int | None, seconds: float) -> http.client.HTTPConnection:
    if scheme == "https":
        return http.client.HTTPSConnection(host, port, timeout=seconds)
    return http.client.HTTPConnection(host, port, timeout=seconds)


def _shown(url: str) -> str:
    return url.partition("?")[0]


def _silent(problem: str) -> Transient:
    return Transient("metric-not-answered", problem, retry_after_seconds=1.0)


def refused(problem: str, remedy: str | None) -> Permanent:
    """The source answers, and somebody must change something."""
    return Permanent("metric-refused", problem, remedy=remedy)
