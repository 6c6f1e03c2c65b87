from __future__ import annotations

import queue
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from rebake.app.patrol import Patrol
from rebake.errors import Transient
from rebake.ledger.ports import Draft, Put
from rebake.testing.simulated import MemoryLedger


def _ask(ledger: MemoryLedger, *keys: str) -> None:
    ledger.commit([], [Put("command", f"{key}/c-{n}", {"verb": "stop"}) for n, key in enumerate(keys)], at=1.0)


def test_what_waits_for_this_home_is_woken_once_a_look() -> None:
    ledger, woken = MemoryLedger(), list[str]()
    patrol = Patrol(ledger, lambda key: key != "shop/elsewhere", lambda _: True, woken.append)
    patrol.look()
    assert woken == []
    _ask(ledger, "shop/production", "shop/production", "shop/elsewhere", "other/production")
    patrol.look()
    assert woken == ["other/production", "shop/production"]


def _write(ledger: MemoryLedger, *environments: str) -> None:
    ledger.commit([Draft("note", "shop", name, None, {}) for name in environments], at=1.0)


def test_what_another_engine_wrote_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rebake.app.patrol.MOST_ENTRIES", 2)
    ledger, woken = MemoryLedger(), list[str]()
    _write(ledger, "before")
    patrol = Patrol(ledger, lambda key: key != "shop/elsewhere", lambda key: key == "shop/mine", woken.append)
    patrol.look()
    assert woken == [], "an engine that begins looks at everything by itself"
    _write(ledger, "staging", "mine", "elsewhere", "staging", "production")
    patrol.look()
    assert woken == ["shop/production", "shop/staging"]
    patrol.look()
    assert len(woken) == 2
    _write(ledger, "production")
    _ask(ledger, "shop/production", "shop/mine")
    patrol.look()
    assert woken[2:] == ["shop/mine", "shop/production"]


def test_where_nobody_else_writes_there_are_no_news() -> None:
    ledger, woken = MemoryLedger(), list[str]()
    patrol = Patrol(ledger, lambda _: True, lambda _: False, woken.append, alone=True)
    patrol.look()
    _write(ledger, "production")
    patrol.look()
    assert woken == []


def test_a_database_that_is_away_does_not_end_the_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rebake.app.patrol.EVERY_SECONDS", 0.001)

    class Away(MemoryLedger):
        looks = 0

        def list(self, kind: str, prefix: str = "") -> Sequence[tuple[str, Mapping[str, Any]]]:
            Away.looks += 1
            if Away.looks < 3:
                raise Transient("ledger-unreachable", "away")
            return super().list(kind, prefix)

    ledger, woken = Away(), queue.Queue[str]()
    _ask(ledger, "shop/production")
    patrol = Patrol(ledger, lambda _: True, lambda _: True, woken.put)
    patrol.start()
    assert woken.get(timeout=10) == "shop/production"
    patrol.close()
