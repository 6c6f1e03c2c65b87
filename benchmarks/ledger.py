"""The ledger at a million entries, on SQLite and on PostgreSQL: appending, verifying, and what people look at.

Peers in the same run: plain INSERTs, one transaction each, into a table of the same columns of the same database; and
what a verification hashes, hashed alone, and read and hashed alone. PostgreSQL runs without waiting for the disk, as in
the tests, so only its ratios mean something.
"""

from __future__ import annotations

import hashlib
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from rebake.core.codec import dump
from rebake.ledger.chain import hash_of
from rebake.ledger.database import DatabaseLedger, open_ledger
from rebake.ledger.entries import record_of
from rebake.ledger.ports import Draft, EntryKind, Put
from rebake.rollout.engine import Engine, Ports
from rebake.rollout.world import Environment, Fleet
from rebake.testing.postgresql import NotInstalled, PostgresqlServer
from rebake.testing.simulated import (
    InlineJobs,
    ManualClock,
    SimulatedPlatform,
    SimulatedRouter,
    simulated_release,
)
from rebake.testing.simulation.scenario import plan_of, revision_of

Row = dict[str, Any]
Insert = Callable[[tuple[Any, ...]], object]

BATCH = 5000
PER_ROLLOUT = 50
ENVIRONMENTS = 200
APPENDS = 500
LOOKS = 200
SAMPLE = 20_000
_KINDS: tuple[EntryKind, ...] = ("intent", "outcome", "transition", "verdict", "decision")
_COLUMNS = "seq, at_ms, kind, service, environment, rollout, body, previous, hash"


_VERIFY = """
import resource, sys, time
from rebake.ledger.database import open_ledger, spans
if sys.argv[2] == "alone":
    spans.processes = lambda: 1
ledger = open_ledger(sys.argv[1])
began = time.perf_counter()
found = ledger.verify()
took = time.perf_counter() - began
most = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
print(found.entries, len(found.faults), took, most)
"""


def _draft(number: int) -> Draft:
    rollout = number // PER_ROLLOUT
    kind, body = _KINDS[number % 5], {"action": f"launch:r-{rollout:08d}-{number % 50}", "ok": True}
    if kind == "intent":
        body |= {"do": "Launch", "revision": f"sha256:{rollout:064x}", "release": f"sha256:{rollout * 7:064x}"}
    elif kind != "outcome":
        body |= {"from": "holding", "to": "shifting", "reason": "step 2 of 7: 25 % after 120 s, 1200 requests"}
    service, name = _place(rollout).split("/")
    return Draft(kind, service, name, f"r-{rollout:08d}", body)


def _place(rollout: int) -> str:
    return f"service-{rollout % ENVIRONMENTS % 50:03d}/environment-{rollout % ENVIRONMENTS // 50}"


def _fill(ledger: DatabaseLedger, first: int, end: int) -> None:
    for start in range(first, end, BATCH):
        numbers = range(start, min(start + BATCH, end))
        rollouts = sorted({n // PER_ROLLOUT for n in numbers})
        puts = [Put("rollout", f"{_place(r)}/r-{r:08d}", {"rollout": r, "rest": "x" * 1500}) for r in rollouts]
        ledger.commit([_draft(n) for n in numbers], puts, at=1.8e9 + start)


def _rate(do: Callable[[], object], count: int) -> float:
    began = time.perf_counter()
    for _ in range(count):
        do()
    return count / (time.perf_counter() - began)


def _appending(ledger: DatabaseLedger, insert: Insert) -> tuple[float, float]:
    """Appends a second, and plain INSERTs a second of rows of the same columns, in turns."""
    numbers = iter(range(10_000_000, 20_000_000))

    def plain() -> None:
        n = next(numbers)
        draft = _draft(n)
        insert((n, n, draft.kind, draft.service, draft.environment, draft.rollout, str(draft.body), "p" * 71, "h" * 71))

    rounds = [
        (_rate(lambda: ledger.commit([_draft(next(numbers))], at=1.9e9), APPENDS // 5), _rate(plain, APPENDS // 5))
        for _ in range(5)
    ]
    return statistics.median(a for a, _ in rounds), statistics.median(b for _, b in rounds)


def _hashes_a_second(ledger: DatabaseLedger) -> float:
    """Hashing alone, of entries that lie ready in memory."""
    records = [record_of(entry) for entry in ledger.entries(limit=SAMPLE)]
    texts = [repr(record).encode() for record in records]
    assert all(hash_of(record) == record.hash for record in records[:100])
    began = time.perf_counter()
    for text in texts:
        hashlib.sha256(text).hexdigest()
    return len(texts) / (time.perf_counter() - began)


def _reads_and_hashes_a_second(where: str) -> float:
    """What cannot be saved: the driver gives the text of every entry, and it is hashed; nothing is compared."""
    began, count = time.perf_counter(), 0
    with closing(sqlite3.connect(where)) as plain:
        for (text,) in plain.execute(f"SELECT CAST({'||'.join(_COLUMNS.split(', ')[:-1])} AS BLOB) FROM entries"):
            hashlib.sha256(text).hexdigest()
            count += 1
    return count / (time.perf_counter() - began)


def _look_ms(ledger: DatabaseLedger) -> float:
    """`status` of one environment as an agent answers that has just begun: nothing is remembered but the ledger."""
    clock = ManualClock()
    platform = SimulatedPlatform(clock)
    routers = {"simulated": SimulatedRouter(platform)}
    parts = ({"simulated": platform}, routers, InlineJobs(), clock, simulated_release, "bench")
    spent = []
    for _ in range(LOOKS):
        engine = Engine(Ports(ledger, *parts))
        began = time.perf_counter()
        engine.view("service-007/environment-3")
        spent.append(time.perf_counter() - began)
    return statistics.median(spent) * 1000


def _history_ms(ledger: DatabaseLedger) -> float:
    spent = []
    for _ in range(LOOKS):
        began = time.perf_counter()
        ledger.newest("rollout", "service-007/environment-3/", 20)
        spent.append(time.perf_counter() - began)
    return statistics.median(spent) * 1000


def _serve_something(ledger: DatabaseLedger) -> None:
    fleet = Fleet("r-1", revision_of("a", 0), plan_of(1, 0))
    environment = Environment("service-007", "environment-3", stable=fleet, platform="simulated")
    put = Put("environment", environment.key, dump(environment))
    ledger.commit([_draft(0)], [put, Put("last", environment.key, {"rollout": "r-1"})], at=1.0)


def _measure(name: str, where: str, ledger: DatabaseLedger, insert: Insert, entries: int) -> Iterator[Row]:
    _serve_something(ledger)
    _fill(ledger, 0, BATCH)
    early = _look_ms(ledger)
    _fill(ledger, BATCH, entries)
    appends, plain = _appending(ledger, insert)
    yield _row(f"{name}: append", round(appends), "a second", f"{plain:.0f} plain INSERTs", appends / plain)
    late = _look_ms(ledger)
    bar = {"bar": "2 × at the start", "ok": late <= 2 * early + 0.5}
    yield _row(f"{name}: status at {entries:,} entries", round(late, 3), "ms", f"{early:.3f} ms", late / early) | bar
    yield _row(f"{name}: newest 20 of the history", round(_history_ms(ledger), 3), "ms")
    alone, _ = _verifying(where, "alone")
    rate, memory = _verifying(where, "together")
    yield _row(f"{name}: verify", round(rate), "entries a second", f"{alone:.0f} by one process", rate / alone)
    hashing = _hashes_a_second(ledger)
    yield _row(f"{name}: verify", round(rate), "entries a second", f"{hashing:.0f} hashes alone", rate / hashing)
    if name == "SQLite":
        plain_rate = _reads_and_hashes_a_second(where)
        ratio = rate / plain_rate
        peer = f"{plain_rate:.0f} read and hashed alone"
        yield _row(f"{name}: verify", round(rate), "entries a second", peer, ratio)
    yield _row(f"{name}: memory while verifying", round(memory), "MiB") | {"bar": 128, "ok": memory <= 128}


def _verifying(where: str, how: str) -> tuple[float, float]:
    """Entries a second, and the most memory of one of the processes that do nothing else, in MiB."""
    command = [sys.executable, "-c", _VERIFY, where, how]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    entries, faults, seconds, kibibytes = said.split()
    assert faults == "0", said
    return int(entries) / float(seconds), int(kibibytes) / 1024


def _row(figure: str, value: float, unit: str, peer: str = "", ratio: float | None = None) -> Row:
    return {"figure": figure, "value": value, "unit": unit, "peer": peer, "ratio": ratio, "bar": None, "ok": None}


def _sqlite(entries: int) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="rebake-bench-") as folder:
        path = Path(folder, "state.db")
        with closing(open_ledger(path)) as ledger, closing(sqlite3.connect(path, isolation_level=None)) as plain:
            plain.execute("PRAGMA synchronous=FULL")
            plain.execute(f"CREATE TABLE plain ({_COLUMNS})")
            insert = f"INSERT INTO plain ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
            yield from _measure("SQLite", str(path), ledger, lambda row: plain.execute(insert, row), entries)


def _postgresql(entries: int) -> Iterator[Row]:
    import psycopg

    with (
        PostgresqlServer() as server,
        server.database() as url,
        closing(open_ledger(url)) as ledger,
        psycopg.connect(url, autocommit=True) as plain,
    ):
        types = "bigint, at_ms bigint, kind text, service text, environment text, rollout text, body text"
        plain.execute(f"CREATE TABLE plain (seq {types}, previous text, hash text)".encode())
        insert = f"INSERT INTO plain ({_COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)".encode()
        yield from _measure("PostgreSQL", url, ledger, lambda row: plain.execute(insert, row), entries)


def run(quick: bool) -> list[Row]:
    """Rows of {"figure", "value", "unit", "peer", "ratio", "bar", "ok"}."""
    entries = 50_000 if quick else 1_000_000
    rows = list(_sqlite(entries))
    try:
        rows += _postgresql(entries)
    except NotInstalled as absent:
        print(f"left out: {absent}", file=sys.stderr)
    return rows
