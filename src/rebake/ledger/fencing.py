"""The other end of a fencing token: whoever acts on the world refuses an effect that comes too late. Pure memory.

An engine may stand still (SIGSTOP, a frozen machine) between its last look at its lease and an effect. When it goes on,
another engine may lead; only the one who is asked for the effect can tell, by the token that came with it.
"""

from __future__ import annotations

import threading

from rebake.errors import LedgerConflict
from rebake.ledger.ports import Fence


def too_late(fence: Fence, newest: int, where: str = "") -> LedgerConflict:
    """What whoever is asked for an effect says of one that came after a newer token.

    Args:
        where: who noticed it; by default the environment.
    """
    return LedgerConflict(
        "lease-lost",
        f"an effect on {fence.key} came with token {fence.token}, after one with token {newest}",
        where=where or fence.key,
        remedy="another engine has taken over and goes on; nothing needs to be done",
    )


class Tokens:
    """The newest token that came with an effect, by environment. Safe from several threads.

    Memory is enough where a lock of the system lets one process act at a time (`core.agent_lock`): a token from before
    that process began cannot come any more.
    """

    def __init__(self) -> None:
        self._newest: dict[str, int] = {}
        self._lock = threading.Lock()

    def check(self, fence: Fence | None) -> None:
        """Let an effect pass, or refuse it. Without a fence nobody contends for the environment: a test, a person.

        Raises: LedgerConflict `lease-lost` when a newer token was seen.
        """
        if fence is None:
            return
        with self._lock:
            newest = self._newest.get(fence.key, 0)
            if fence.token >= newest:
                self._newest[fence.key] = fence.token
                return
        raise too_late(fence, newest)
