"""Servers that tests start end with the process that started them, however that ends."""

from __future__ import annotations

import ctypes
import signal

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1  # Source: prctl(2)


def end_with_parent() -> None:
    """Told to the kernel between fork and exec: when whoever started us dies, we are sent SIGTERM."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
