"""What every ledger must do. A test module of an adapter subclasses these and gives the fixtures.

`LedgerConformance` needs `open_ledger`: a fixture with a callable that opens the same, at first empty, ledger each time
it is called. `SharedLedgerConformance` needs `address` too: what `opener` takes in another process.
"""

from __future__ import annotations

import importlib
import itertools
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pytest

from rebake.core.digest import digest_of
from rebake.errors import BrokenInvariant, LedgerConflict
from rebake.ledger.chain import GENESIS
from rebake.ledger.ports import Draft, Entry, EntryKind, Lease, Ledger, Put

OpenLedger = Callable[[], Ledger]


def draft(
    number: int = 0,
    *,
    kind: EntryKind = "intent",
    service: str = "shop",
    environment: str = "production",
    rollout: str | None = "r1",
) -> Draft:
    """A small entry that can be told from others."""
    return Draft(
        kind, service, environment, rollout, {"number": number, "text": "a 'quoted' \"line\"\n", "list": [None]}
    )


class LedgerConformance:
    """Chain, documents and leases, seen through the port."""

    @pytest.fixture
    def open_ledger(self) -> Iterator[OpenLedger]:
        """Opens the same ledger each time; overridden by the adapter's test module."""
        raise NotImplementedError

    @pytest.fixture
    def ledger(self, open_ledger: OpenLedger) -> Ledger:
        return open_ledger()

    def test_an_empty_ledger_ends_at_genesis_and_is_whole(self, ledger: Ledger) -> None:
        assert ledger.head() == (0, GENESIS)
        found = ledger.verify()
        assert (found.entries, found.head, found.faults) == (0, GENESIS, ())

    def test_entries_are_chained_in_the_order_given(self, ledger: Ledger) -> None:
        first, second = ledger.commit([draft(1), draft(2)], at=1.5)
        (third,) = ledger.commit([draft(3, rollout=None)], at=2.0)
        assert [e.seq for e in (first, second, third)] == [1, 2, 3]
        assert [e.previous for e in (first, second, third)] == [GENESIS, first.hash, second.hash]
        assert (first.at_ms, third.at_ms) == (1500, 2000)
        assert ledger.head() == (3, third.hash)
        assert ledger.verify().faults == ()

    def test_the_hash_covers_every_other_field_in_canonical_form(self, ledger: Ledger) -> None:
        body = {"é": '\u2028\x00\x7f"\\', "n": 2**70, "t": True, "nested": {"b": [], "a": {}}}
        (entry,) = ledger.commit([Draft("note", "shöp", 'pro"d\n', None, body)], at=0.001)
        names = ("at_ms", "body", "environment", "kind", "previous", "rollout", "seq", "service")
        assert entry.hash == digest_of({name: getattr(entry, name) for name in names})
        assert entry.body == body

    def test_what_was_committed_is_what_is_read_by_another_handle(self, open_ledger: OpenLedger) -> None:
        written = open_ledger().commit([draft(n) for n in range(5)], at=7.25)
        assert list(open_ledger().entries()) == list(written)

    def test_a_body_with_a_float_is_refused_and_nothing_is_written(self, ledger: Ledger) -> None:
        bad = Draft("note", "shop", "production", None, {"share": 0.5})
        with pytest.raises(BrokenInvariant):
            ledger.commit([draft(1), bad], [Put("rollout", "r1", {})], at=1.0)
        assert ledger.head() == (0, GENESIS)
        assert ledger.get("rollout", "r1") is None

    @pytest.mark.parametrize("body", [{"x": {1, 2}}, {1: "x"}, {"x": "\ud800"}, {"x": object()}])
    def test_a_body_that_is_no_json_is_refused(self, ledger: Ledger, body: dict[Any, Any]) -> None:
        with pytest.raises(BrokenInvariant):
            ledger.commit([Draft("note", "shop", "production", None, body)], at=1.0)
        assert ledger.head() == (0, GENESIS)

    def test_a_document_that_is_no_json_is_refused_and_its_entries_too(self, ledger: Ledger) -> None:
        with pytest.raises(BrokenInvariant):
            ledger.commit([draft()], [Put("rollout", "r1", {"x": float("nan")})], at=1.0)
        assert ledger.head() == (0, GENESIS)

    def test_entries_are_found_by_every_condition(self, ledger: Ledger) -> None:
        ledger.commit(
            [
                draft(1, service="shop", environment="staging", rollout="r1"),
                draft(2, service="shop", environment="production", rollout="r2", kind="verdict"),
                draft(3, service="blog", environment="production", rollout=None),
                draft(4, service="shop", environment="production", rollout="r2", kind="outcome"),
            ],
            at=1.0,
        )

        def numbers(**conditions: Any) -> list[int]:
            return [entry.body["number"] for entry in ledger.entries(**conditions)]

        assert numbers() == [1, 2, 3, 4]
        assert numbers(service="shop") == [1, 2, 4]
        assert numbers(service="shop", environment="production") == [2, 4]
        assert numbers(rollout="r2", kinds=["verdict"]) == [2]
        assert numbers(kinds=["verdict", "outcome"]) == [2, 4]
        assert numbers(after=2) == [3, 4]
        assert numbers(limit=2) == [1, 2]
        assert numbers(limit=2, newest_first=True) == [4, 3]
        assert numbers(after=1, service="shop", newest_first=True) == [4, 2]
        assert numbers(service="nobody") == []

    def test_documents_are_put_replaced_and_deleted(self, ledger: Ledger) -> None:
        ledger.commit([], [Put("rollout", "r1", {"share": 0.25, "é": [1]})], at=1.0)
        assert ledger.get("rollout", "r1") == {"share": 0.25, "é": [1]}
        ledger.commit([], [Put("rollout", "r1", {"share": 1})], at=2.0)
        assert ledger.get("rollout", "r1") == {"share": 1}
        assert ledger.get("revision", "r1") is None
        ledger.commit([], [Put("rollout", "r1", None), Put("rollout", "never", None)], at=3.0)
        assert ledger.get("rollout", "r1") is None
        assert ledger.head() == (0, GENESIS)

    def test_the_newest_documents_come_last_key_first_and_no_more_than_asked_for(self, ledger: Ledger) -> None:
        keys = ["shop/a/r-1", "shop/a/r-2", "shop/a/r-3", "shop/b/r-9", "shop/a0"]
        ledger.commit([], [Put("rollout", key, {"key": key}) for key in keys], at=1.0)
        assert [key for key, _ in ledger.newest("rollout", "shop/a/", 2)] == ["shop/a/r-3", "shop/a/r-2"]
        assert ledger.newest("rollout", "shop/a/", 10)[-1] == ("shop/a/r-1", {"key": "shop/a/r-1"})
        assert ledger.newest("other", "", 5) == []

    def test_verifying_tells_how_many_entries_were_read(self, ledger: Ledger) -> None:
        ledger.commit([draft(n) for n in range(12_000)], at=1.0)
        told: list[int] = []
        assert ledger.verify(progress=told.append).entries == 12_000
        assert told == sorted(told)
        assert told[-1] == 12_000

    def test_documents_are_listed_by_prefix_in_key_order(self, ledger: Ledger) -> None:
        keys = ["shop/b", "shop/a", "Shop/a", "shop", "shop0", "shop%", "shop_/x", "shop/\U0010ffff", "shop/é"]
        ledger.commit([], [Put("fleet", key, {"key": key}) for key in keys], at=1.0)
        ledger.commit([], [Put("other", "shop/a", {"key": "other"})], at=1.0)
        assert [key for key, _ in ledger.list("fleet")] == sorted(keys)
        assert [key for key, _ in ledger.list("fleet", "shop/")] == ["shop/a", "shop/b", "shop/é", "shop/\U0010ffff"]
        assert ledger.list("fleet", "shop%") == [("shop%", {"key": "shop%"})]
        assert ledger.list("fleet", "SHOP") == []
        for prefix in ("", "shop/", "shop%", "SHOP"):
            assert list(ledger.keys("fleet", prefix)) == [key for key, _ in ledger.list("fleet", prefix)]

    def test_the_lease_has_one_owner_at_a_time(self, open_ledger: OpenLedger) -> None:
        one, other = open_ledger(), open_ledger()
        fence = one.lease("shop/production", "a", at=100.0, ttl_seconds=10)
        assert fence is not None
        assert other.lease("shop/production", "b", at=109.9, ttl_seconds=10) is None
        assert other.lease("shop/staging", "b", at=100.0, ttl_seconds=10) is not None
        assert one.lease("shop/production", "a", at=105.0, ttl_seconds=10) == fence
        assert other.lease("shop/production", "b", at=112.0, ttl_seconds=10) is None

    def test_a_taken_over_lease_gets_a_larger_token_and_fences_its_former_owner(self, open_ledger: OpenLedger) -> None:
        one, other = open_ledger(), open_ledger()
        stale = one.lease("shop/production", "a", at=100.0, ttl_seconds=10)
        assert stale is not None
        one.commit([draft(1)], at=101.0, fence=stale)
        newer = other.lease("shop/production", "b", at=110.0, ttl_seconds=10)
        assert newer is not None
        assert newer.token > stale.token
        with pytest.raises(LedgerConflict) as refused:
            one.commit([draft(2)], [Put("rollout", "r1", {})], at=111.0, fence=stale)
        assert refused.value.code == "lease-lost"
        assert one.get("rollout", "r1") is None
        (entry,) = other.commit([draft(3)], at=111.0, fence=newer)
        assert entry.seq == 2

    def test_a_late_owner_that_nobody_replaced_still_holds_its_lease(self, ledger: Ledger) -> None:
        fence = ledger.lease("shop/production", "a", at=100.0, ttl_seconds=1)
        assert ledger.lease("shop/production", "a", at=500.0, ttl_seconds=1) == fence
        assert len(ledger.commit([draft(1)], at=900.0, fence=fence)) == 1

    def test_a_released_lease_is_free_at_once_and_its_token_never_returns(self, ledger: Ledger) -> None:
        fence = ledger.lease("shop/production", "a", at=100.0, ttl_seconds=1000)
        assert fence is not None
        ledger.release_lease(fence)
        with pytest.raises(LedgerConflict):
            ledger.commit([draft(1)], at=100.0, fence=fence)
        again = ledger.lease("shop/production", "b", at=100.0, ttl_seconds=1000)
        assert again is not None
        assert again.token > fence.token

    def test_a_held_lease_tells_its_owner_reason_and_end_and_ends_by_itself(self, ledger: Ledger) -> None:
        ledger.lease("shop/production", "a", at=100.0, ttl_seconds=10, reason="deploy r-1, preparing")
        ledger.lease("shop/production", "a", at=104.0, ttl_seconds=10, reason="deploy r-1, holding")
        gone = ledger.lease("shop/staging", "b", at=100.0, ttl_seconds=10)
        assert gone is not None
        ledger.release_lease(gone)
        held = ledger.held(at=113.9)
        assert held == [Lease("shop/production", "a", 1, "deploy r-1, holding", 100.0, 114.0)]
        assert ledger.held(at=114.0) == []
        ledger.lease("shop/production", "b", at=115.0, ttl_seconds=10, reason="deploy r-1, holding")
        assert [(lease.owner, lease.token, lease.since) for lease in ledger.held(at=116.0)] == [("b", 2, 115.0)]

    def test_releasing_a_lost_lease_takes_nothing_from_its_owner(self, ledger: Ledger) -> None:
        stale = ledger.lease("shop/production", "a", at=100.0, ttl_seconds=1)
        newer = ledger.lease("shop/production", "b", at=200.0, ttl_seconds=1000)
        assert stale is not None
        ledger.release_lease(stale)
        assert ledger.lease("shop/production", "c", at=201.0, ttl_seconds=1) is None
        assert len(ledger.commit([draft(1)], at=201.0, fence=newer)) == 1

    def test_a_fence_for_a_lease_nobody_ever_took_is_refused(self, ledger: Ledger) -> None:
        taken = ledger.lease("shop/production", "a", at=1.0, ttl_seconds=10)
        assert taken is not None
        with pytest.raises(LedgerConflict):
            ledger.commit([draft(1)], at=1.0, fence=type(taken)("shop/elsewhere", taken.token))

    def test_one_of_many_threads_gets_the_lease(self, open_ledger: OpenLedger) -> None:
        ledger, barrier = open_ledger(), threading.Barrier(6)

        def attempt(owner: int) -> object:
            barrier.wait(timeout=30)
            return ledger.lease("shop/production", f"engine-{owner}", at=1.0, ttl_seconds=60)

        with ThreadPoolExecutor(6) as pool:
            fences = list(pool.map(attempt, range(6)))
        assert len([fence for fence in fences if fence is not None]) == 1

    def test_appends_from_four_threads_make_one_gapless_chain(self, open_ledger: OpenLedger) -> None:
        ledger = open_ledger()

        def append(thread: int) -> list[Entry]:
            return [e for n in range(25) for e in ledger.commit([draft(n, rollout=f"t{thread}")], at=float(n))]

        with ThreadPoolExecutor(4) as pool:
            written = list(itertools.chain(*pool.map(append, range(4))))
        found = ledger.verify()
        assert (found.entries, found.faults) == (100, ())
        assert sorted(written, key=lambda e: e.seq) == list(ledger.entries())
        for thread in range(4):
            assert [e.body["number"] for e in ledger.entries(rollout=f"t{thread}")] == list(range(25))

    def test_reading_and_verifying_go_on_while_others_append(self, open_ledger: OpenLedger) -> None:
        ledger, done = open_ledger(), threading.Event()

        def append() -> None:
            try:
                for number in range(60):
                    ledger.commit([draft(number)], [Put("count", "n", {"n": number + 1})], at=1.0)
            finally:
                done.set()

        with ThreadPoolExecutor(1) as pool:
            writer = pool.submit(append)
            while not done.is_set():
                assert ledger.verify().faults == ()
                ledger.get("count", "n")
            writer.result()
        assert ledger.verify().entries == 60

    def test_a_chain_holds_every_head_it_ever_had(self, ledger: Ledger) -> None:
        heads = [ledger.head()[1]]
        for number in range(3):
            ledger.commit([draft(number)], at=1.0)
            heads.append(ledger.head()[1])
        for head in heads:
            assert ledger.verify(expect_head=head).faults == ()
        (fault,) = ledger.verify(expect_head="sha256:" + "0" * 64).faults
        assert "rewritten" in fault.problem


class SharedLedgerConformance:
    """Several processes at one ledger, and processes that are killed.

    Attributes:
        opener: `module:function` that opens a ledger by its address.
    """

    opener: ClassVar[str]

    @pytest.fixture
    def address(self) -> str:
        """Where the ledger is; overridden by the adapter's test module."""
        raise NotImplementedError

    def _worker(self, address: str, name: str, count: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", __name__, self.opener, address, name, str(count)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def test_appends_from_three_processes_make_one_gapless_chain(self, address: str) -> None:
        workers = [self._worker(address, f"p{n}", 30) for n in range(3)]
        try:
            outputs = [worker.communicate(timeout=60)[0].split() for worker in workers]
        finally:
            for worker in workers:
                worker.kill()
        assert [worker.returncode for worker in workers] == [0, 0, 0]
        assert sorted(int(seq) for output in outputs for seq in output) == list(range(1, 91))
        ledger = open_by_name(self.opener, address)
        found = ledger.verify()
        assert (found.entries, found.faults) == (90, ())
        for n in range(3):
            assert [e.body["number"] for e in ledger.entries(rollout=f"p{n}")] == list(range(30))

    def test_a_writer_killed_in_the_middle_loses_nothing_it_was_told_is_safe(self, address: str) -> None:
        told = 0
        for attempt in range(3):
            worker = self._worker(address, f"k{attempt}", 1_000_000)
            assert worker.stdout is not None
            with worker, worker.stdout:
                for _ in range(15 + attempt):
                    told = int(worker.stdout.readline())
                worker.send_signal(signal.SIGKILL)
                for line in worker.stdout:
                    told = int(line) if line.endswith("\n") else told
            ledger = open_by_name(self.opener, address)
            found = ledger.verify()
            assert found.faults == ()
            assert found.entries >= told
            document = ledger.get("last", f"k{attempt}")
            assert document is not None
            newest = ledger.entries(rollout=f"k{attempt}", newest_first=True, limit=1)[0]
            assert document["number"] == newest.body["number"], "entry and document are one transaction"


def open_by_name(opener: str, address: str) -> Ledger:
    """Open a ledger as another process does."""
    module, _, name = opener.partition(":")
    ledger: Ledger = getattr(importlib.import_module(module), name)(address)
    return ledger


def _append(opener: str, address: str, name: str, count: int) -> None:
    ledger = open_by_name(opener, address)
    for number in range(count):
        put = Put("last", name, {"number": number})
        (entry,) = ledger.commit([draft(number, rollout=name)], [put], at=float(number))
        print(entry.seq, flush=True)


if __name__ == "__main__":
    _append(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
