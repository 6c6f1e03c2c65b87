from __future__ import annotations

import pytest

from rebake.errors import LedgerConflict
from rebake.ledger.fencing import Tokens
from rebake.ledger.ports import Fence


def test_an_older_token_is_refused_for_its_environment_alone() -> None:
    tokens = Tokens()
    tokens.check(Fence("shop/production", 3))
    tokens.check(Fence("shop/production", 3))
    tokens.check(Fence("shop/staging", 1))
    tokens.check(None)
    with pytest.raises(LedgerConflict, match="token 2, after one with token 3") as refused:
        tokens.check(Fence("shop/production", 2))
    assert refused.value.code == "lease-lost"
    tokens.check(Fence("shop/production", 4))
