"""What this installation is called in clusters that others use, too."""

from __future__ import annotations

import socket

from rebake.core.home import Home
from rebake.kubernetes.owners import Owner
from rebake.ledger.ports import Ledger

_DIGITS = 16


class Installation:
    """One ledger, with all engines over it: its first entry is no other ledger's, and never changes."""

    def __init__(self, home: Home, ledger: Ledger) -> None:
        self._home, self._ledger = home, ledger
        self._owner: Owner | None = None

    def owner(self) -> Owner | None:
        """None before the first entry: until then nothing was asked for."""
        if self._owner is None and (first := self._ledger.entries(limit=1)):
            digest = first[0].hash.rpartition(":")[2]
            self._owner = Owner(digest[:_DIGITS], f"{socket.gethostname()}:{self._home.root}")
        return self._owner
