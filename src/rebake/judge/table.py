"""A tape as a table of samples, one row a tick, for spreadsheets, notebooks and other tools. Pure.

The columns are those of docs/judge.md. `t`, `dt`, `weight` and for both cohorts `…_n` and `…_errors` are all that is
needed; `…_endpoints` (JSON: name to [requests, failures]) and `…_latency` (`bucket:count`, by blanks) where known;
`step` counts the steps; what else a tick carries has a column of its own, as JSON. What the judge began with is one
JSON document beside the rows: the file's first line, after a `#`, or the Parquet file's own note.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from rebake.errors import UsageError
from rebake.judge.metrics import SHARES
from rebake.judge.samples import Arm
from rebake.judge.tape import STEP, Beginning, Entry, latency_of, latency_text, tick_of

COHORTS = ("stable", "candidate")
FIRST_COLUMNS = (
    "t", "dt", "weight", "step", *(f"{c}_{name}" for c in COHORTS for name in ("n", "errors", "endpoints", "latency"))
)  # fmt: skip
_NEEDED = ("t", "dt", "weight", "stable_n", "stable_errors", "candidate_n", "candidate_errors")
_OF_AN_ARM = [part.name for part in fields(Arm)]
_KNOWN = frozenset({"t", "dt", "weight", "step", "pairs", *(f"{c}_{name}" for c in COHORTS for name in _OF_AN_ARM)})
_NAMED = {"refusals": "refused", "redirects": "redirected"}
"""Kinds of metric whose column is called otherwise."""
_PLAIN = (bool, int, float, str)

Row = Mapping[str, Any]


def rows_of(entries: Iterable[Entry]) -> list[dict[str, Any]]:
    """Every tick as a row of cells: numbers and texts."""
    step, rows = 0, []
    for entry in entries:
        if entry[0] == "step":
            step += 1
        elif entry[0] == "tick":
            rows.append({"step": step, **_cells(entry[1])})
    return rows


def columns_of(rows: Sequence[Row]) -> list[str]:
    """The columns that these rows need, the well-known ones first."""
    more = sorted({name for row in rows for name in row} - set(FIRST_COLUMNS))
    return [*FIRST_COLUMNS, *more]


def _cells(doc: Mapping[str, Any]) -> dict[str, Any]:
    cells = {name: _cell(value) for name, value in doc.items() if name not in COHORTS}
    for cohort in COHORTS:
        arm = {"n": 0, "errors": 0, **doc.get(cohort, {})}
        cells |= {f"{cohort}_{name}": _cell(value) for name, value in arm.items()}
    return cells


def _cell(value: Any) -> Any:
    return value if isinstance(value, _PLAIN) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def entries_from(rows: Iterable[tuple[str, Row]], where: str) -> Iterator[Entry]:
    """The tape that a table tells.

    Args:
        rows: each with its place, such as `line 7`. where: the file.
    Raises: UsageError `samples-not-understood`, naming place and column.
    """
    step: Any = None
    for place, row in rows:
        try:
            doc = _document(row)
        except (ValueError, TypeError, IndexError, AttributeError) as error:
            raise not_understood(f"{where}, {place}", str(error)) from error
        if (mark := row.get("step")) not in (None, "") and str(mark) != str(step):
            if str(mark) != "0":
                yield STEP
            step = mark
        yield ["tick", doc]


def _document(row: Row) -> dict[str, Any]:
    doc: dict[str, Any] = {cohort: {} for cohort in COHORTS}
    if None in row:
        raise ValueError(f"expected {len(row) - 1} cells, as many as there are columns, found more")
    if missing := [name for name in _NEEDED if _empty(row.get(name))]:
        raise ValueError(f"expected a value in {', '.join(missing)}, found none")
    for name, cell in row.items():
        if name == "step" or _empty(cell):
            continue
        if name not in _KNOWN:
            raise ValueError(f"expected a column that docs/judge.md names, found {name}")
        cohort, _, part = name.partition("_")
        if cohort in COHORTS:
            doc[cohort][part] = _part(name, part, cell)
        else:
            doc[name] = _finite(name, cell) if name in ("t", "dt", "weight") else _value(name, cell)
    if not 0.0 <= doc["weight"] <= 1.0:
        raise ValueError(f"expected a weight from 0 to 1, found {doc['weight']}")
    tick_of(doc)
    for cohort in COHORTS:
        n, errors = doc[cohort]["n"], doc[cohort]["errors"]
        if not 0 <= errors <= n:
            raise ValueError(f"expected 0 to {n} failures in {cohort}_errors, found {errors}")
    return doc


def _part(name: str, part: str, cell: Any) -> Any:
    if part == "latency":
        return _latency(name, cell)
    if part in ("endpoints", "instances"):
        return _value(name, cell)
    number = _finite(name, cell)
    if number != int(number) or number < 0:
        raise ValueError(f"expected a whole number, 0 or more, in {name}, found {cell}")
    return int(number)


def _latency(name: str, cell: Any) -> str:
    """As text, from text or (in Parquet) a list of counts."""
    if isinstance(cell, list | tuple):
        return latency_text(cell)
    text = str(cell)
    try:
        if text.startswith("["):
            return latency_text(json.loads(text))
        latency_of(text)
    except (ValueError, TypeError) as error:
        raise ValueError(f"expected bucket:count by blanks in {name}, found {text[:40]}") from error
    return text


def _value(name: str, cell: Any) -> Any:
    try:
        return json.loads(cell) if isinstance(cell, str) else cell
    except ValueError as error:
        raise ValueError(f"expected JSON in {name}, found {cell[:40]}") from error


def _finite(name: str, cell: Any) -> float:
    try:
        number = float(cell)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"expected a number in {name}, found {str(cell)[:40]}")
    return number


def _empty(cell: Any) -> bool:
    return cell is None or cell == ""


def beginning_from(note: Mapping[str, Any] | None, columns: Iterable[str]) -> Beginning:
    """What the judge begins with: as the note says; without one, kinds by the columns that there are."""
    if note and "began" in note:
        return Beginning.from_json(note["began"])
    known = set(columns)
    kinds = tuple(k for k in SHARES if k == "errors" or any(f"{c}_{_NAMED.get(k, k)}" in known for c in COHORTS))
    return Beginning(kinds=kinds)


def not_understood(where: str, problem: str) -> UsageError:
    return UsageError(
        "samples-not-understood",
        problem,
        where=where,
        remedy="docs/judge.md describes the columns; rebake replay ENV --export FILE.csv writes an example",
    )
