"""Health of one instance from its probes: pure. The probes themselves are sent by `watcher.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rebake.core.units import format_duration
from rebake.release.manifest import Health

STARTING_INTERVAL_SECONDS = 0.05
"""While an instance starts it is probed this often, so that it serves as soon as it can."""
STARTING_COMMAND_SECONDS = 0.5
"""The same for a health command, which costs a process each time."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What the probes say so far.

    Attributes:
        healthy: None before the first probe.
        was_healthy: it passed at least once.
        detail: why the last probe failed; None when it passed.
        streak: probes in a row with the last one's result.
    """

    healthy: bool | None = None
    was_healthy: bool = False
    detail: str | None = None
    streak: int = 0


def after_probe(before: Condition, contract: Health, failure: str | None) -> Condition:
    """The condition after one more probe.

    An instance that served turns unhealthy after `unhealthy_after` failures in a row, and healthy again after
    `healthy_after` passes in a row; one that never served is unhealthy from its first failure.

    Args:
        failure: why the probe failed, or None when it passed.
    """
    passed = failure is None
    streak = before.streak + 1 if before.streak and passed == (before.detail is None) else 1
    healthy: bool | None
    if passed:
        healthy = bool(before.healthy) or streak >= contract.healthy_after
    elif before.was_healthy and streak < contract.unhealthy_after:
        healthy = before.healthy  # one that was adopted stays unjudged until it fails often enough, or passes
    else:
        healthy = False
    return Condition(healthy, before.was_healthy or bool(healthy), failure, streak)


def sentence(condition: Condition, contract: Health, age_seconds: float) -> str | None:
    """Why the instance is not healthy, as a person reads it; None when it is.

    Args:
        age_seconds: since it was started.
    """
    if condition.healthy:
        return None
    last = condition.detail or "not probed yet"
    if not condition.was_healthy and age_seconds * 1000 > contract.start_timeout_ms:
        return f"not healthy within {format_duration(contract.start_timeout_ms)}: last: {last}"
    return last


def request_bytes(contract: Health, host: str, port: int) -> bytes:
    """The probe. One connection each: a kept one would occupy a server that serves one connection at a time.

    Source: RFC 9112.
    """
    return (
        f"GET {contract.path} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: rebake-health\r\n"
        "Accept: */*\r\nConnection: close\r\n\r\n"
    ).encode("latin-1", "replace")


def judge_answer(data: bytes, contract: Health, *, ended: bool) -> tuple[bool, str | None]:
    """Read what has arrived of an answer.

    Args:
        ended: nothing more will come.
    Returns: (decided, failure): failure is None when it is decided and the answer is 200 to 399.
    """
    line, newline, _ = data.partition(b"\n")
    if not newline and not ended:
        return len(data) > 4096, "the answer is not HTTP"
    words = line.split(None, 2)
    if not data:
        return True, f"GET {contract.path} was closed without an answer"
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        return True, f"GET {contract.path} answered something that is not HTTP"
    status = int(words[1])
    return True, None if 200 <= status < 400 else f"GET {contract.path} answered {status}"


def is_whole(data: bytes) -> bool:
    """Whether an answer that names its length has arrived as a whole; False when its end is the connection's end."""
    head, blank, body = data.partition(b"\r\n\r\n")
    if not blank:
        return False
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length" and value.strip().isdigit():
            return len(body) >= int(value)
    return False


def state_of(
    ended: str | None, stopping: bool, condition: Condition
) -> Literal["starting", "running", "stopping", "exited"]:
    """What an instance is said to be.

    Args:
        ended: how it ended, if it did.
        stopping: it was told to finish.
    """
    if ended is not None:
        return "exited"
    if stopping:
        return "stopping"
    return "running" if condition.was_healthy else "starting"
