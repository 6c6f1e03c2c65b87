"""agent.log: what the agent and everything below it writes, rotated so that it never fills a disk."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import time
from logging.handlers import RotatingFileHandler
from pathlib import Path

_LIMIT_BYTES = 5 << 20
_KEPT = 3


class Journal(RotatingFileHandler):
    """A rotated file that also takes standard output and error, so that a crash of the interpreter is seen in it."""

    def __init__(self, path: Path, *, take_standard: bool) -> None:
        self._take = take_standard
        super().__init__(path, maxBytes=_LIMIT_BYTES, backupCount=_KEPT, encoding="utf-8")
        self._point_standard()

    def doRollover(self) -> None:
        super().doRollover()
        self._point_standard()

    def _point_standard(self) -> None:
        if self._take and self.stream is not None:
            os.dup2(self.stream.fileno(), 1)
            os.dup2(self.stream.fileno(), 2)


def open_journal(path: Path, *, foreground: bool) -> None:
    """Send the log to the file; in the foreground, for a supervisor that keeps logs, to standard error too."""
    shape = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
    shape.converter = time.gmtime
    handlers: list[logging.Handler] = [Journal(path, take_standard=not foreground)]
    if foreground:
        handlers.append(logging.StreamHandler())
    for handler in handlers:
        handler.setFormatter(shape)
    logging.basicConfig(level=logging.INFO, handlers=handlers, force=True)
    for noisy in ("httpx", "httpcore", "uvicorn.access", "uvicorn.error"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)  # kill -USR1 PID writes where every thread is: for whoever looks into a hang
