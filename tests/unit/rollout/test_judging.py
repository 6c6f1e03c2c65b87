"""What the judge remembers across restarts and upgrades."""

from __future__ import annotations

import pytest

from rebake.ledger.ports import Put
from rebake.rollout.states import State
from tests.unit.rollout.world import CANARY, Shop

A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def _holding() -> tuple[Shop, str]:
    shop = Shop()
    shop.serving(A)
    rollout = shop.deploy(B, strategy=CANARY)
    shop.until_state(State.HOLDING)
    shop.until(lambda: shop.ledger.get("judging", rollout) is not None)
    return shop, rollout


@pytest.mark.parametrize("lost", ["judge", "last", "totals", "step"])
def test_an_upgrade_that_remembers_in_another_form_begins_the_evidence_anew(lost: str) -> None:
    shop, rollout = _holding()
    state = shop.ledger.get("judging", rollout)
    assert state is not None
    written = {name: value for name, value in state.items() if name != lost} | {"of-another-version": 1}
    shop.ledger.commit([], [Put("judging", rollout, written)], at=shop.clock.now())
    shop.start_engine()
    assert shop.until_over(rollout)["outcome"] == "promoted"


def test_an_unreadable_judge_blocks_no_stop() -> None:
    shop, rollout = _holding()
    shop.ledger.commit([], [Put("judging", rollout, {"judge": {}})], at=shop.clock.now())
    shop.start_engine()
    shop.command("stop")
    assert shop.until_over(rollout)["outcome"] == "stopped"
    assert shop.stable_release == A
