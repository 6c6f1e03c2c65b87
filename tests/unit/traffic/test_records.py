"""Lines of Envoy's records, and the files they stand in: read once each, whatever is killed, renamed or garbled."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest

from rebake.judge.history import paired
from rebake.judge.samples import LATENCY_BUCKETS, Pairs
from rebake.traffic.endpoints import Endpoints
from rebake.traffic.envoy import recorder
from rebake.traffic.envoy.copies import EVENTS
from rebake.traffic.envoy.recorder import Recorder
from rebake.traffic.envoy.records import Tally, bucket, dealt_by, weights_of
from rebake.traffic.ports import EnvironmentRoute, FleetRoute, Sample, Samples

SECOND = 1_800_000_000


WAITING: dict[str, Any] = {"code": 0, "micros": "-", "millis": "10000", "kind": "DownstreamPeriodic"}
LEFT: dict[str, Any] = {"code": 0, "flags": "DC", "micros": "-"}


def line(
    second: int = SECOND,
    *,
    fleet: str = "s1",
    weights: str = "s1:9500,c1:500",
    code: int = 200,
    flags: str = "-",
    micros: str = "12000",
    tries: int = 1,
    server: str | None = None,
    kind: str = "DownstreamEnd",
    millis: str = "12",
    request: str = "r-1",
    caller: str = "-",
    asked: str = "GET\t/orders/17",
) -> bytes:
    head = f"{second}\t{weights}\tshop/production/{fleet}\t127.0.0.1:7001\t{code}\t{flags}\t{micros}\t{millis}"
    head += f"\t{tries}\t{server or fleet.partition('~')[0]}\t{kind}\t10000\t{request}\t{caller}"
    return f"{head}\t{asked}".encode()


def tally(*lines: bytes) -> tuple[Sample, ...]:
    found = Tally("shop/production/", Endpoints(["GET /orders/{id}"]))
    found.add(lines)
    return found.take()


def only(*lines: bytes) -> Sample:
    (sample,) = tally(*lines)
    return sample


def test_a_line_is_counted_with_everything_it_says() -> None:
    sample = only(line(), line(code=503, fleet="c1"), line(micros="900"))
    assert (sample.at, sample.weights) == (SECOND, {"s1": 9500, "c1": 500})
    assert (sample.fleets["s1"].n, sample.fleets["s1"].errors) == (2, 0)
    assert (sample.fleets["c1"].n, sample.fleets["c1"].errors) == (1, 1)
    assert sample.fleets["c1"].endpoints == {"GET /orders/{id}": (1, 1)}
    assert sample.fleets["c1"].latency == ()
    latency = sample.fleets["s1"].latency
    assert {i: c for i, c in enumerate(latency) if c} == {0: 1, bucket(12_000): 1}
    assert sample.fleets["s1"].instances["127.0.0.1:7001"].n == 2


def test_seconds_and_weights_are_never_pooled() -> None:
    found = tally(line(SECOND + 1), line(), line(weights="s1:5000,c1:5000"))
    assert [(s.at, s.weights["c1"]) for s in found] == [(SECOND, 500), (SECOND, 5000), (SECOND + 1, 500)]


@pytest.mark.parametrize("flags", ["UF", "UF,URX", "UC", "UT", "UH", "LR"])
def test_broken_connections_are_failures_even_of_an_answer_that_began_well(flags: str) -> None:
    assert only(line(flags=flags, code=200)).fleets["s1"].errors == 1


def test_what_another_fleet_answered_is_the_failure_of_the_one_it_was_dealt_to() -> None:
    shielded = line(fleet="c1~shield", server="s1", tries=2)
    both_failed = line(fleet="c1~shield", server="s1", tries=2, code=503, flags="URX")
    nobody_there = line(fleet="c1~shield", server="s1", tries=1)
    sample = only(line(fleet="c1~shield"), shielded, both_failed, nobody_there)
    arm = sample.fleets["c1"]
    assert set(sample.fleets) == {"c1"}, "no success of stable"
    assert (arm.n, arm.errors, arm.shielded, sum(arm.latency)) == (4, 3, 2, 1)
    assert arm.endpoints == {"GET /orders/{id}": (4, 3)}
    assert arm.instances["127.0.0.1:7001"].n == 1, "who answered for it is none of its instances"


def test_a_second_try_is_a_failure_of_the_first_on_every_fleet() -> None:
    arm = only(line(tries=2), line(tries=3, code=502), line()).fleets["s1"]
    assert (arm.n, arm.errors, arm.shielded) == (3, 2, 1)


def test_what_was_hedged_for_want_of_an_answer_failed_nothing_and_was_unanswered() -> None:
    waiting = line(code=0, micros="-", millis="10000", kind="DownstreamPeriodic", fleet="c1~shield")
    answered = line(fleet="c1~shield", server="s1", tries=2, millis="10060", micros="10060000")
    itself = line(fleet="c1~shield", server="c1", tries=2, millis="12000", micros="12000000")
    arm = only(waiting, answered, waiting, itself).fleets["c1"]
    assert (arm.n, arm.errors, arm.shielded, arm.unanswered) == (2, 0, 0, 2)
    assert sum(arm.latency[bucket(10_000_000) :]) == 2
    assert not arm.instances, "who answered it in the end says nothing of one instance"
    both = line(fleet="c1~shield", server="s1", tries=2, millis="12000", code=503)
    assert only(waiting, both).fleets["c1"].errors == 1


def test_a_caller_who_left_during_the_second_try_met_a_failure() -> None:
    arm = only(line(fleet="c1~shield", tries=2, server="s1", code=0, flags="DC", micros="-")).fleets["c1"]
    assert (arm.n, arm.errors, arm.shielded, arm.latency) == (1, 1, 0, ())


def test_a_caller_who_left_is_no_request_but_has_waited() -> None:
    arm = only(line(code=0, flags="DC", micros="-")).fleets["s1"]
    assert (arm.n, arm.errors, arm.unanswered, sum(arm.latency)) == (0, 0, 1, 1)


def test_an_answer_that_began_and_does_not_end_is_unfinished_once() -> None:
    begun = {**WAITING, "code": 200}
    left = only(line(code=200, flags="DC", micros="-")).fleets["s1"]
    assert (left.n, left.unanswered, left.unfinished) == (0, 0, 1)
    arm = only(line(**begun), line(code=200, flags="DC", micros="-", millis="12000")).fleets["s1"]
    assert (arm.n, arm.unanswered, arm.unfinished) == (0, 0, 1)
    assert only(line(**begun), line(millis="12000")).fleets["s1"].n == 1
    upgraded = only(line(**{**WAITING, "code": 101}), line(code=101, flags="DC", micros="-")).fleets["s1"]
    assert (upgraded.unanswered, upgraded.unfinished) == (0, 0)


@pytest.mark.parametrize("end", [{"code": 200}, {"code": 0, "flags": "DC", "micros": "-"}])
def test_a_request_that_waits_too_long_is_unanswered_once_whatever_becomes_of_it(end: dict[str, Any]) -> None:
    waiting = line(code=0, micros="-", millis="10000", kind="DownstreamPeriodic")
    assert only(waiting).fleets["s1"].unanswered == 1
    arm = only(waiting, line(millis="31000", **end)).fleets["s1"]
    assert (arm.unanswered, arm.errors) == (1, 0)


def test_refusals_and_redirects_are_answers_that_are_told_apart() -> None:
    arm = only(line(code=404), line(code=429), line(code=399), line(code=500), line(code=304)).fleets["s1"]
    assert (arm.n, arm.errors, arm.refused, arm.redirected) == (5, 1, 2, 1)


def original(request: str, second: int = SECOND, **parts: Any) -> bytes:
    return line(second, weights="s1:10000+c1", request=request, **parts)


def copy(request: str, second: int = SECOND, **parts: Any) -> bytes:
    return line(second, fleet="c1~copy", weights="-", request=request, **parts)


def pairs(*lines: bytes) -> Pairs:
    return paired(sample.pairs["c1"] for sample in tally(*lines) if sample.pairs)


def test_a_copy_is_counted_beside_its_original_and_is_no_users_request() -> None:
    sample = only(original("a"), copy("a", code=500), copy("b"), original("b"), original("not copied"))
    assert (sample.weights, set(sample.fleets), sample.fleets["s1"].n) == ({"s1": 10_000}, {"s1"}, 3)
    found = sample.pairs["c1"]
    assert (found.n, found.failed, found.instances) == (2, (0, 1, 0), ("127.0.0.1:7001",))
    assert found.endpoints == {"GET /orders/{id}": (2, 0, 1, 0)}


def test_a_pair_is_of_the_second_in_which_it_became_whole() -> None:
    found = tally(original("a"), copy("a", SECOND + 3))
    assert [(s.at, len(s.pairs)) for s in found] == [(SECOND, 0), (SECOND + 3, 1)]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ({"code": 503}, {"code": 500}, ("failed", (1, 0, 0))),
        ({"code": 503}, {}, ("failed", (0, 0, 1))),
        ({}, {"flags": "UF", "code": 503}, ("failed", (0, 1, 0))),
        ({"tries": 2}, {}, ("failed", (0, 0, 1))),
        ({"code": 404}, {"code": 404}, ("refused", (1, 0, 0))),
        ({}, {"code": 404}, ("refused", (0, 1, 0))),
        ({"code": 304}, {"code": 302}, ("redirected", (0, 1, 0))),
        ({}, WAITING, ("unanswered", (0, 1, 0))),
        (WAITING, WAITING, ("unanswered", (1, 0, 0))),
        (LEFT, {}, ("unanswered", (0, 0, 1))),
        ({}, {"flags": "UMSDR", "code": 504}, ("unanswered", (0, 1, 0))),
        ({}, {"flags": "UMSDR", "code": 200}, ("unfinished", (0, 1, 0))),
        ({}, {**WAITING, "code": 200}, ("unfinished", (0, 1, 0))),
        ({"flags": "DC", "code": 200, "micros": "-"}, {}, ("unfinished", (0, 0, 1))),
    ],
)
def test_what_becomes_of_both_halves(one: dict[str, Any], other: dict[str, Any], expected: tuple[str, Any]) -> None:
    for lines in ((original("a", **one), copy("a", **other)), (copy("a", **other), original("a", **one))):
        found = pairs(*lines)
        assert (found.n, getattr(found, expected[0])) == (1, expected[1])
        others = set(EVENTS) - {expected[0]}
        assert all(getattr(found, name) == (0, 0, 0) for name in others)


def test_the_first_word_of_each_half_counts_and_a_pair_counts_once() -> None:
    lines = (copy("a", **WAITING), original("a"), copy("a", SECOND + 9, code=500), original("a"), copy("a"))
    found = pairs(*lines)
    assert (found.n, found.unanswered, found.failed) == (1, (0, 1, 0), (0, 0, 0))
    assert pairs(original("a", **WAITING), original("a", code=500), copy("a")).unanswered == (0, 0, 1)


def test_a_copy_that_was_cut_off_with_its_connection_says_nothing() -> None:
    assert pairs(original("a"), copy("a", **LEFT), copy("b"), original("b")).n == 1


def test_halves_that_wait_for_nobody_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pairs(original("a"), original("b", SECOND + 30), copy("a", SECOND + 30)).n == 0
    monkeypatch.setattr("rebake.traffic.envoy.copies.MOST_HALVES", 100)
    many = [original(f"r{n}") for n in range(1000)]
    assert pairs(*many, *(copy(f"r{n}") for n in range(1000))).n <= 100


def test_a_reader_that_was_killed_between_the_halves_of_a_pair_joins_them(tmp_path: Path) -> None:
    path = tmp_path / "shop.production.log"
    at = int(time.time())
    path.write_bytes(original("a", at) + b"\n" + original("b", at) + b"\n" + copy("b", at) + b"\n")
    first = Recorder(path, "shop/production/", lambda: None)
    cursor = first.read(None).cursor
    with path.open("ab") as file:
        file.write(copy("a", at) + b"\n")
    for reader in (first, Recorder(path, "shop/production/", lambda: None)):
        (sample,) = reader.read(cursor).samples
        assert sample.pairs["c1"].n == 1
        assert not sample.fleets


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\t" * 50,
        b"x" * 9000,
        b"\xff\xfe\x00",
        line().replace(b"200", b"many"),
        line().replace(b"shop/production/", b"other/production/"),
        line(fleet="c1~preview"),
        line(fleet="c1~mirror"),
        line(weights="-"),
    ],
)
def test_what_is_not_a_users_request_is_passed_over(garbage: bytes) -> None:
    found = tally(garbage, line())
    assert [arm.n for sample in found for arm in sample.fleets.values()] == [1]


def test_tabs_that_a_caller_sends_harm_nothing() -> None:
    assert only(line(asked="GET\t/a\tb\tc")).fleets["s1"].n == 1


def test_weights_are_found_again_whatever_fleets_are_called() -> None:
    fleets = (FleetRoute("a,b:1\t ü", (), 9_999), FleetRoute("c", (), 1), FleetRoute("idle", (), 0))
    route = EnvironmentRoute("shop", "production", "127.0.0.1:1", fleets)
    assert dealt_by(route).isascii()
    assert weights_of(dealt_by(route)) == {"a,b:1\t ü": 9_999, "c": 1}


def test_a_bucket_ends_at_its_edge() -> None:
    for place in (0, 1, 17, 100, 224):
        edge = 1.05**place * 1000
        assert bucket(int(edge * 0.9999)) <= place
        assert bucket(int(edge * 1.001) + 1) == place + 1
    assert bucket(10**12) == LATENCY_BUCKETS - 1


def test_a_caller_that_sticks_counts_once_a_minute_and_fails_once() -> None:
    minute = SECOND - SECOND % 60
    same = [line(minute, caller="-/id1"), *[line(minute + 1, caller="id1/id2", code=500)] * 5]
    arms = [s.fleets["s1"] for s in tally(*same, line(minute + 60, caller="id1/id9"))]
    assert [(a.n, a.errors) for a in arms] == [(1, 0), (1, 1), (1, 0)]


class Disk:
    """One environment's records, and the Envoy that writes them: it goes on in a renamed file until told."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "shop.production.log"
        self.file = self.path.open("ab")
        self.written = 0

    def write(self, count: int, **more: str) -> None:
        for _ in range(count):
            self.file.write(line(SECOND + self.written // 100, **more) + b"\n")  # type: ignore[arg-type]
            self.written += 1
        self.file.flush()

    def reopen(self) -> None:
        self.file.close()
        self.file = self.path.open("ab")

    def recorder(self) -> Recorder:
        return Recorder(self.path, "shop/production/", self.reopen)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def requests(found: Samples) -> int:
    return sum(arm.n for sample in found.samples for arm in sample.fleets.values())


def test_half_a_line_waits_for_its_end(disk: Disk) -> None:
    reader, whole = disk.recorder(), line() + b"\n"
    disk.file.write(whole + whole[:40])
    disk.file.flush()
    first = reader.read(None)
    disk.file.write(whole[40:])
    disk.file.flush()
    assert (requests(first), requests(reader.read(first.cursor))) == (1, 1)


def test_no_request_is_lost_or_counted_twice_whenever_the_reader_is_killed(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand acts in some order: write, read, keep, be killed, put aside, remove."""
    monkeypatch.setattr(recorder, "LARGEST", 3000)
    monkeypatch.setattr(recorder, "AT_ONCE", 2500)
    monkeypatch.setattr(recorder, "LINGER_SECONDS", -1.0)
    chance = random.Random(7)
    reader, cursor, counted = disk.recorder(), None, 0
    kept: tuple[dict[str, object] | None, int] = (None, 0)
    for _ in range(1000):
        act = chance.choice(("write", "write", "read", "read", "keep", "kill", "forget"))
        if act == "write":
            disk.write(chance.randrange(30))
        elif act == "read":
            found = reader.read(cursor)
            cursor, counted = found.cursor, counted + requests(found)
        elif act == "keep":
            kept = (None if cursor is None else dict(cursor), counted)
        elif act == "kill":
            reader, (cursor, counted) = disk.recorder(), kept
        elif kept[0] is not None:
            reader.forget(kept[0])
    while (found := reader.read(cursor)).more or requests(found):
        cursor, counted = found.cursor, counted + requests(found)
    assert counted == disk.written
    assert len(list(disk.path.parent.iterdir())) < 25, "what was read is removed"


def test_an_envoy_that_was_not_told_yet_loses_nothing(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "LARGEST", 10)
    reader = Recorder(disk.path, "shop/production/", lambda: None)
    disk.write(3)
    first = reader.read(None)
    reader.forget(first.cursor)
    disk.write(4)
    second = reader.read(first.cursor)
    disk.reopen()
    disk.write(5)
    assert [requests(f) for f in (first, second, reader.read(second.cursor))] == [3, 4, 5]


def test_a_restarted_reader_knows_who_called_in_this_minute(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rebake.traffic.envoy.recorder.time.time", lambda: float(SECOND))
    disk.write(1, caller="id1/id2")
    first = disk.recorder().read(None)
    disk.write(3, caller="id1/id2")
    assert requests(disk.recorder().read(first.cursor)) == 0


def test_a_lagging_reader_is_told_that_there_is_more(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "AT_ONCE", 1000)
    disk.write(100)
    found = disk.recorder().read(None)
    assert found.more
    assert 0 < requests(found) < 100


def test_dropped_records_are_gone(disk: Disk) -> None:
    disk.write(2)
    disk.recorder().drop()
    assert not list(disk.path.parent.iterdir())
