"""How a container ended, as a person reads it. Pure."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any

from rebake.core.units import describe_size

_SIGNALLED = 128
_OVER = ("exited", "dead", "removing", "stopped")


def describe_end(found: Mapping[str, Any] | None, memory_bytes: int | None) -> str | None:
    """The sentence; None while it has not ended.

    Args:
        found: what the engine says of the container; None when there is no such container any more.
        memory_bytes: its limit.
    """
    if found is None:
        return "its container was removed by somebody else"
    state = found.get("State") or {}
    if state.get("Status") not in _OVER:
        return None
    code = int(state.get("ExitCode") or 0)
    if state.get("OOMKilled"):
        limit = f" {describe_size(memory_bytes)}" if memory_bytes is not None else ""
        return f"killed by SIGKILL (memory limit{limit})"
    if state.get("Error"):
        return f"could not run: {state['Error']}"
    if code > _SIGNALLED and code - _SIGNALLED in set(signal.Signals):
        return f"killed by {signal.Signals(code - _SIGNALLED).name}"
    return f"exit {code}"
