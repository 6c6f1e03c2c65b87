"""Tapes as tables: what is written is read back to the same verdict, and a mistake is named with its place."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from rebake.cli import samples_file
from rebake.errors import UsageError
from rebake.judge.copies import SHARE
from rebake.judge.rerun import rerun
from rebake.judge.samples import Arm, Pairs, Tick
from rebake.judge.table import rows_of
from rebake.judge.tape import STEP, Beginning, Entry, tick_entry

HEAD = "t,dt,weight,stable_n,stable_errors,candidate_n,candidate_errors"
BEGINNING = Beginning(history=Arm(7200, 7, {"GET /": (7200, 7)}), copies_share=SHARE)


def tape() -> list[Entry]:
    """Copies first, then users, of whom the candidate fails one after the other."""
    copied = Pairs(20, failed=(1, 0, 2), endpoints={"GET /": (20, 1, 0, 2)}, instances=("c1",))
    entries: list[Entry] = [tick_entry(Tick(0.0, 1.0, 0.0, pairs=copied)), STEP]
    for t in range(1, 40):
        latency = tuple(3 if i == 90 else 0 for i in range(226))
        stable = Arm(190, 0, {"GET /": (190, 0)}, latency, refused=2, unanswered=1, started=191)
        candidate = Arm(3, int(t > 20), {"GET /": (3, int(t > 20))}, shielded=int(t > 20), started=3)
        entries.append(tick_entry(Tick(float(t), 1.0, 0.015, stable, candidate)))
    return entries


def as_json(entries: list[Entry]) -> Any:
    return json.loads(json.dumps([e for e in entries if e[0] == "tick"]))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_tape_goes_through_a_file_to_the_same_outcome(tmp_path: Path, suffix: str) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
    target = tmp_path / f"samples.{suffix}"
    samples_file.write(target, rows_of(tape()), {"rollout": "r-1", "began": BEGINNING.to_json()})
    beginning, entries = samples_file.read(target)
    assert beginning == BEGINNING
    assert rerun(beginning, entries) == rerun(BEGINNING, tape())
    assert rerun(beginning, entries).outcome == "rolled-back"
    assert [entry[0] for entry in entries].count("step") == 1


def test_a_table_from_elsewhere_needs_seven_columns(tmp_path: Path) -> None:
    source = tmp_path / "mine.CSV"
    rows = [f"{t},1,0.1,90,0,10,{10 if t > 3 else 0}" for t in range(9)]
    source.write_text("\ufeff" + "\n".join([HEAD, *rows]) + "\n", encoding="utf-8")
    beginning, entries = samples_file.read(source)
    assert beginning.kinds == ("errors",)
    outcome = rerun(beginning, entries)
    assert (outcome.outcome, outcome.second) == ("rolled-back", 5.0)


def test_latencies_may_be_lists_and_texts(tmp_path: Path) -> None:
    source = tmp_path / "mine.csv"
    head = f"{HEAD},stable_latency,candidate_latency,stable_endpoints"
    source.write_text(f'{head}\n0,1,0.1,9,0,1,0,"[0, 4, 5]",2:1,"{{""GET /"": [9, 0]}}"\n')
    _, entries = samples_file.read(source)
    assert entries[0][1]["stable"]["latency"] == "1:4 2:5"
    assert entries[0][1]["stable"]["endpoints"] == {"GET /": [9, 0]}


GOOD = "1,1,0.1,90,0,10,0"
MISTAKES = [
    ("2,1,0.1,90,0,ten,0", "line 4", "a number in candidate_n, found ten"),
    ("2,1,0.1,90,0,9.5,0", "line 4", "a whole number, 0 or more, in candidate_n, found 9.5"),
    ("2,1,0.1,-90,0,9,0", "line 4", "a whole number, 0 or more, in stable_n, found -90"),
    ("2,1,0.1,90,0,3,9", "line 4", "0 to 3 failures in candidate_errors, found 9"),
    ("2,1,1.5,90,0,3,0", "line 4", "a weight from 0 to 1, found 1.5"),
    ("2,1,nan,90,0,3,0", "line 4", "a number in weight, found nan"),
    ("2,,0.1,90,,3,0", "line 4", "a value in dt, stable_errors, found none"),
    ("2,1,0.1,90,0,3", "line 4", "a value in candidate_errors, found none"),
    ("2,1,0.1,90,0,3,0,7,8", "line 4", "7 cells, as many as there are columns, found more"),
]


@pytest.mark.parametrize(("row", "place", "problem"), MISTAKES)
def test_a_mistake_is_named_with_its_line_its_column_and_what_to_do(
    tmp_path: Path, row: str, place: str, problem: str
) -> None:
    source = tmp_path / "mine.csv"
    source.write_text("\n".join(["# {}", HEAD, GOOD, row, "this is not read"]) + "\n")
    error = mistaken(source)
    assert (error.code, error.where) == ("samples-not-understood", f"{source}, {place}")
    assert problem in error.problem
    assert "docs/judge.md" in (error.remedy or "")


@pytest.mark.parametrize(
    ("column", "cell", "problem"),
    [
        ("canary_n", "3", "a column that docs/judge.md names, found canary_n"),
        ("candidate_latency", "fast", "bucket:count by blanks in candidate_latency, found fast"),
        ("stable_endpoints", "GET /", "JSON in stable_endpoints, found GET /"),
        ("candidate_started", "some", "a number in candidate_started, found some"),
        ("pairs", "[]", ""),
        ("stable_endpoints", "[1]", ""),
    ],
)
def test_a_column_that_cannot_be_read_is_named(tmp_path: Path, column: str, cell: str, problem: str) -> None:
    source = tmp_path / "mine.csv"
    with source.open("w", newline="") as file:
        csv.writer(file).writerows([[*HEAD.split(","), column], [*GOOD.split(","), cell]])
    error = mistaken(source)
    assert (error.code, error.where) == ("samples-not-understood", f"{source}, line 2")
    assert problem in error.problem


@pytest.mark.parametrize("text", ["", "\n\n", HEAD + "\n", "# not json\n" + HEAD, "t;dt\n1;2\n", "\0\0", "# {}\n"])
def test_what_is_no_table_at_all_is_refused(tmp_path: Path, text: str) -> None:
    source = tmp_path / "mine.csv"
    source.write_text(text)
    assert mistaken(source).code == "samples-not-understood"


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    for name in ("mine.csv", "mine.parquet"):
        source = tmp_path / name
        source.write_bytes(b"\xff\xfe\x00PAR1")
        assert mistaken(source).code in ("samples-not-understood", "parquet-missing")


def test_a_file_that_is_not_there_and_a_place_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    assert mistaken(tmp_path / "none.csv").code == "file-unreadable"
    with pytest.raises(UsageError) as refused:
        samples_file.write(tmp_path / "no" / "folder.csv", rows_of(tape()), {})
    assert refused.value.code == "file-unwritable"
    with pytest.raises(UsageError) as other:
        samples_file.write(tmp_path / "samples.xlsx", rows_of(tape()), {})
    assert other.value.code == "wrong-usage"


def mistaken(source: Path) -> UsageError:
    with pytest.raises(UsageError) as found:
        samples_file.read(source)
    return found.value
