"""The judge's tape: exactly what the judge was fed, whatever is killed, and no more of it than is stated."""

from __future__ import annotations

from typing import Any

import pytest

from rebake.judge.history import Hour
from rebake.judge.samples import Arm, Tick, Verdict
from rebake.judge.tape import Beginning, arm_from_json, arm_to_json, entries_of, play, tick_entry, tick_of, unpack
from rebake.rollout import taping
from rebake.rollout.plan import Strategy
from rebake.rollout.states import State
from rebake.rollout.taping import read_tape
from tests.unit.rollout.world import CANARY, KEY, Shop

GOOD, BAD = "sha256:" + "a" * 64, "sha256:" + "b" * 64
SLOW_RAMP = Strategy("canary", steps=(500, 2500), hold_ms=60_000)


def shop_with(error_rate: float, strategy: Strategy = CANARY) -> tuple[Shop, str]:
    shop = Shop()
    shop.serving(GOOD)
    shop.platform.behaviour(BAD).error_rate = error_rate
    return shop, shop.deploy(BAD, strategy=strategy)


def tape_of(shop: Shop, rollout: str) -> dict[str, Any]:
    tape = read_tape(shop.ledger, KEY, rollout)
    assert tape is not None
    return tape


def played(tape: dict[str, Any]) -> list[tuple[Tick, Verdict]]:
    import json

    beginning = Beginning.from_json(json.loads(unpack(tape["began"]))[1])
    return list(play(beginning.judge(), entries_of(tape["parts"])))


def said(tape: dict[str, Any]) -> list[dict[str, Any]]:
    return [entry[1] for entry in entries_of(tape["parts"]) if entry[0] == "said"]


@pytest.mark.parametrize("kill_at", [None, 3.0, 7.7])
def test_the_tape_of_a_rollout_gives_the_very_verdict_evidence_and_second_again(kill_at: float | None) -> None:
    shop, rollout = shop_with(0.02, SLOW_RAMP)
    shop.until_state(State.HOLDING)
    if kill_at is not None:
        end = shop.clock.now() + kill_at
        shop.until(lambda: shop.clock.now() >= end)
        shop.start_engine()  # what was judged since the last save is read and judged again
    view = shop.until_over(rollout)
    assert view["outcome"] == "rolled-back"
    tape = tape_of(shop, rollout)
    course = played(tape)
    last = said(tape)[-1]
    harmful_at = next(tick.t + tick.dt for tick, verdict in course if verdict.kind == "harmful")
    assert course[-1][1].evidence == view["verdict"]["evidence"]
    assert course[-1][1].reason == view["verdict"]["reason"]
    assert course[-1][1].candidate == tuple(view["verdict"]["candidate"].values())
    assert harmful_at == next(doc["t"] for doc in said(tape) if doc["kind"] == "harmful")
    assert last["evidence"] == view["verdict"]["evidence"]
    assert tape["ticks"] == len(course)
    assert not tape["full"]


def test_the_tape_is_as_long_as_the_saved_evidence_at_every_moment() -> None:
    shop, rollout = shop_with(0.0, SLOW_RAMP)
    shop.until_state(State.HOLDING)
    for _ in range(150):
        shop.tick()
        state = shop.ledger.get("judging", rollout)
        if state is None:
            continue
        entries = list(entries_of(tape_of(shop, rollout)["parts"]))
        assert len(entries) == state["tape"]["entries"]
        assert [e for e in entries if e[0] == "said"][-1][1]["evidence"] == state["judge"]["evidence"]


def test_parts_are_put_together_so_that_a_long_rollout_has_few_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taping, "PARTS_TOGETHER", 4)
    shop, rollout = shop_with(0.0, SLOW_RAMP)
    view = shop.until_over(rollout, 600)
    assert view["outcome"] == "promoted"
    parts = shop.ledger.list(taping.PART, f"{rollout}/")
    tape = tape_of(shop, rollout)
    assert len(parts) < 30
    assert tape["bytes"] == sum(len(doc["packed"]) for _, doc in parts)
    assert played(tape)[-1][1].evidence == view["verdict"]["evidence"]


def test_only_the_newest_tapes_of_an_environment_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taping, "KEPT_TAPES", 3)
    shop = Shop()
    shop.serving(GOOD)
    ended = []
    for number in range(6):
        release = f"sha256:{number:064}"
        shop.platform.behaviour(release).error_rate = 0.9
        ended.append(shop.deploy(release, strategy=CANARY))
        assert shop.until_over(ended[-1])["outcome"] == "rolled-back"
    kept = [header["rollout"] for _, header in shop.ledger.list(taping.TAPE, f"{KEY}/")]
    assert kept == ended[-3:]
    assert {key.partition("/")[0] for key, _ in shop.ledger.list(taping.PART)} == set(kept)


def test_a_tape_that_is_full_says_so_and_judging_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taping, "MOST_BYTES", 2000)
    shop, rollout = shop_with(0.0, SLOW_RAMP)
    view = shop.until_over(rollout, 600)
    tape = tape_of(shop, rollout)
    assert view["outcome"] == "promoted"
    assert tape["full"]
    assert tape["bytes"] < 4000
    assert tape["ticks"] == len(played(tape))


def test_evidence_that_another_version_wrote_begins_a_new_life_of_the_tape() -> None:
    shop, rollout = shop_with(0.02, SLOW_RAMP)
    shop.until_state(State.HOLDING)
    shop.until(lambda: shop.ledger.get("judging", rollout) is not None)
    before = tape_of(shop, rollout)["prefix"]
    from rebake.ledger.ports import Put

    shop.ledger.commit([], [Put("judging", rollout, {"judge": {"of": "another version"}})], at=shop.clock.now())
    shop.clock.advance(1.0)
    shop.start_engine()
    view = shop.until_over(rollout)
    tape = tape_of(shop, rollout)
    assert tape["prefix"] != before
    assert played(tape)[-1][1].evidence == view["verdict"]["evidence"]


def test_a_version_that_knew_no_tape_leaves_none_and_is_followed() -> None:
    shop, rollout = shop_with(0.02, SLOW_RAMP)
    shop.until_state(State.HOLDING)
    shop.until(lambda: shop.ledger.get("judging", rollout) is not None)
    from rebake.ledger.ports import Put

    state = dict(shop.ledger.get("judging", rollout) or {})
    del state["tape"]
    shop.ledger.commit([], [Put("judging", rollout, state), Put("tape", f"{KEY}/{rollout}", None)], at=shop.clock.now())
    shop.start_engine()
    assert shop.until_over(rollout)["outcome"] == "rolled-back"
    assert read_tape(shop.ledger, KEY, rollout) is None


def test_a_tick_and_an_hour_go_through_the_tape_unchanged() -> None:
    latency = tuple(7 if bucket in (3, 94) else 0 for bucket in range(226))
    arm = Arm(14, 1, {"GET /orders/{id}": (9, 1)}, latency, started=20)
    tick = Tick(1 / 3, 0.1, 0.0125, stable=arm, candidate=Arm(started=0))
    assert tick_of(tick_entry(tick)[1]) == tick
    hour = Hour()
    hour.add(100, "f", Arm(14, 1, {"GET /": (14, 1)}, latency, {"b": arm, "a": arm}))
    history = hour.of("f", 120.0)
    assert history is not None
    assert arm_from_json(arm_to_json(history)) == history
