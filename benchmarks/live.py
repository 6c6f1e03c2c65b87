"""The judge on real traffic: what bad releases cost the callers of a real service, beside what the simulation says.

    python -m benchmarks live [--quick]

A service on `local` (two instances, Envoy, the agent), callers at 20 and 200 requests/s in the mix of the judges'
benchmark, the `default` profile. Bad requests are counted by the callers. The peer is the simulation of the same
scenario (`judge_run`, acting in 0.2 s, a stable that never fails): its median is the ratio's base, its p95 the bar.

Also: the time from the look that decides to the weights read back at zero, out of the ledger (the intent bears the
look's time, and the route's outcome is written once Envoy says that it serves the route); and what reading the records
of 5,000 requests/s costs the agent.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from tests.e2e.releases import MIX, steady, write_release
from tests.e2e.site import SERVER, Site

from benchmarks.judge_batch import Batch
from benchmarks.judge_run import simulate
from benchmarks.judge_world import SCENARIOS
from rebake.tour.load import Load, Request
from rebake.traffic.envoy.recorder import Recorder

Row = dict[str, Any]

RATES = (20.0, 200.0)
BAD = ("crash", "+5 points", "endpoint")
ACTUATION_SECONDS = 0.2
SETTLE_SECONDS = 4.0
POSTING = (*MIX, Request("/", "POST", weight=5))
SHIELDED = "    strategy: {canary: {profile: default}}\n    soak: 5m\n"
PROFILE = f"{SHIELDED}    shield: false\n"
SHIELDED_RATE, SEEN_BAR = 200.0, 0.5
"""One request in five may not be sent twice; few fail, so that what users see of them is a wide draw around that."""
SIMULATED_RUNS = 200
MOST_ENTRIES = 10_000
RECORDS_PER_SECOND, RECORDED_SECONDS, LOOKS_PER_SECOND = 5000, 10, 5
RECORDS_SHARE = 0.1


def predicted(scenario: str, rate: float) -> tuple[float, float]:
    """Median and p95 of the bad requests in the simulation."""
    found = simulate(
        lambda world: Batch(world, "default"),
        SCENARIOS[scenario],
        rate,
        0.0,
        runs=SIMULATED_RUNS,
        seed=1,
        actuation=ACTUATION_SECONDS,
    ).bad
    return float(np.median(found)), float(np.quantile(found, 0.95))


class _Bench:
    """One site, and one release after the other."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.number = 0
        self.to_zero: list[float] = []

    def prepare(self) -> None:
        self.site.describe(PROFILE)
        write_release(self.site, SERVER, "good")
        done = self.site.deploy()
        assert done.code == 0, done.err

    def spoil(self, scenario: str, rate: float) -> int:
        """Roll a bad release out under load. Returns: the failed requests that its callers count."""
        self.number += 1
        write_release(self.site, SERVER, scenario, self.number)
        with steady(self.site, rate) as load:
            time.sleep(SETTLE_SECONDS)  # the agent learns how much is asked: part of the measurement
            done = self.site.deploy()
            report = load.stop()
        assert done.code == 3, done.err
        assert not report.lost, report.losses
        self.to_zero.append(self._seconds_to_zero(done.doc["rollout"]))
        return report.errors

    def shielded(self, scenario: str) -> tuple[int, int]:
        """Roll a bad release out behind the shield, with callers of whom one in five posts.

        Returns: what the candidate failed; what of it users saw.
        """
        self.number += 1
        write_release(self.site, SERVER, scenario, self.number)
        self.site.describe(SHIELDED)
        with Load(self.site.url, SHIELDED_RATE, POSTING) as load:
            time.sleep(SETTLE_SECONDS)
            done = self.site.deploy()
            report = load.stop()
        assert done.code == 3, done.err
        assert not report.lost, report.losses
        return int(done.doc["requests"]["candidate"]["errors"]), report.errors

    def please(self, rate: float, seconds: float) -> tuple[int, bool]:
        """Roll a good release out for a while. Returns: failed or lost requests; whether it was taken back."""
        self.number += 1
        write_release(self.site, SERVER, "good", self.number)
        with steady(self.site, rate) as load:
            assert self.site.rebake("deploy", "production", "--detach").code == 0
            time.sleep(seconds)
            rollout = self.site.status()["rollout"]
            report = load.stop()
        self.site.rebake("stop", "production")
        return report.errors + report.lost, rollout is None or rollout["state"] == "rolling-back"

    def _seconds_to_zero(self, rollout: str) -> float:
        shown = self.site.rebake("ledger", "show", "--json", "--limit", str(MOST_ENTRIES))
        entries = json.loads(shown.out)["entries"]
        begun = next(e["seq"] for e in entries if e["rollout"] == rollout and "harmful" in json.dumps(e["body"]))
        later = [e for e in entries if e["seq"] >= begun]
        intent = next(e for e in later if e["kind"] == "intent" and e["body"]["do"] == "ApplyRoute")
        action = intent["body"]["action"]
        outcome = next(e for e in later if e["kind"] == "outcome" and e["body"]["action"] == action)
        return float(outcome["at_ms"] - intent["at_ms"]) / 1000


def _bad_rows(bench: _Bench, rounds: int) -> list[Row]:
    rows = []
    for scenario in BAD:
        for rate in RATES:
            found = statistics.median(bench.spoil(scenario, rate) for _ in range(rounds))
            median, p95 = predicted(scenario, rate)
            rows.append(
                {
                    "figure": f"bad requests, {scenario}, {rate:g} requests/s",
                    "value": float(found),
                    "unit": "requests",
                    "peer": f"the simulated {median:g}",
                    "ratio": round(found / max(median, 1.0), 2),
                    "bar": p95,
                    "ok": found <= p95,
                }
            )
    return rows


def _shield_rows(bench: _Bench, rounds: int) -> list[Row]:
    """The same kinds of release, with the shield: what of the candidate's failures its users see."""
    rows = []
    for scenario in ("crash", "+5 points"):
        pairs = [bench.shielded(scenario) for _ in range(rounds)]
        failed, seen = (sum(pair[i] for pair in pairs) for i in (0, 1))
        rows.append(
            {
                "figure": f"{scenario}, shielded: share of the candidate's failures that users saw",
                "value": round(seen / max(failed, 1), 3),
                "unit": f"of {failed}",
                "peer": "without the shield 1, by the methods' shares 0.2",
                "bar": SEEN_BAR,
                "ok": failed > 0 and seen / max(failed, 1) <= SEEN_BAR,
            }
        )
    return rows


def _good_rows(bench: _Bench, seconds: float) -> list[Row]:
    rows: list[Row] = []
    for rate in RATES:
        spoiled, taken_back = bench.please(rate, seconds)
        figure = f"a good release for {seconds:g} s at {rate:g} requests/s: requests spoiled"
        ok = spoiled == 0 and not taken_back
        rows.append({"figure": figure, "value": spoiled, "unit": "requests", "bar": 0, "ok": ok})
    return rows


def _to_zero_row(bench: _Bench) -> Row:
    worst = max(bench.to_zero)
    return {
        "figure": f"from the deciding look to weights read back at zero, worst of {len(bench.to_zero)}",
        "value": worst,
        "unit": "s",
        "bar": ACTUATION_SECONDS,
        "ok": worst <= ACTUATION_SECONDS,
    }


def _lines(count: int) -> list[bytes]:
    """What Envoy writes for so many requests: many paths, some failures."""
    paths = ("/", "/notes", "/items/{}", "/orders/{}/lines/{}")
    return [
        f"{1_790_000_000 + n // RECORDS_PER_SECOND}\ts1:9000,c1:1000\tbench/production/{'c1' if n % 10 == 0 else 's1'}"
        f"\t127.0.0.1:{4000 + n % 6}\t{500 if n % 997 == 0 else 200}\t-\t{3000 + n * 7919 % 90000}\t5"
        f"\t1\t{'c1' if n % 10 == 0 else 's1'}\tDownstreamEnd\t10000\t{n:036}\t-\tGET"
        f"\t{paths[n % 4].format(n, n % 7)}\n".encode()
        for n in range(count)
    ]


def _records_row(folder: Path) -> Row:
    """Read ten seconds of records as the agent does, five times a second; processor time, not waiting."""
    lines = _lines(RECORDS_PER_SECOND * RECORDED_SECONDS)
    recorder = Recorder(folder / "records.log", "bench/production/", lambda: None)
    each = RECORDS_PER_SECOND // LOOKS_PER_SECOND
    cursor, spent, split, counted = None, 0.0, 0.0, 0
    for start in range(0, len(lines), each):
        part = lines[start : start + each]
        with (folder / "records.log").open("ab") as file:
            file.write(b"".join(part))
        began = time.process_time()
        found = recorder.read(cursor)
        spent += time.process_time() - began
        cursor = found.cursor
        counted += sum(arm.n for sample in found.samples for arm in sample.fleets.values())
        began = time.process_time()
        for line in b"".join(part).split(b"\n"):
            line.split(b"\t", 10)
        split += time.process_time() - began
    assert counted == len(lines), (counted, len(lines))
    share = spent / RECORDED_SECONDS
    return {
        "figure": f"reading the records of {RECORDS_PER_SECOND:,} requests/s",
        "value": round(share, 4),
        "unit": "cores",
        "peer": "splitting the same lines",
        "ratio": round(spent / split, 1),
        "bar": RECORDS_SHARE,
        "ok": share <= RECORDS_SHARE,
    }


def run(quick: bool) -> list[Row]:
    """Rows of {"figure", "value", "unit", "peer", "ratio", "bar", "ok"}."""
    with tempfile.TemporaryDirectory(prefix="rebake-bench-", ignore_cleanup_errors=True) as root:
        rows = [_records_row(Path(root))]
        site = Site(Path(root))
        bench = _Bench(site)
        try:
            bench.prepare()
            rows += _bad_rows(bench, 1 if quick else 3)
            rows.append(_to_zero_row(bench))
            rows += _shield_rows(bench, 4 if quick else 12)
            rows += _good_rows(bench, 30 if quick else 180)
        finally:
            site.clear()
    return rows
