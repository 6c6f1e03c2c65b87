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
from typing import Any

from rebake.errors import UsageError
from rebake.judge.metrics import SHARES
from rebake.judge.tape import STEP, Beginning, Entry, arm_from_json, latency_of, latency_text

COHORTS = ("stable", "candidate")
FIRST_COLUMNS = (
    "t", "dt", "weight", "step", *(f"{c}_{name}" for c in COHORTS for name in ("n", "errors", "endpoints", "latency"))
)  # fmt: skip
_NEEDED = ("t", "dt", "weight", "stable_n", "stable_errors", "candidate_n", "candidate_errors")
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


def entries_from(rows: Iterable[Row], where: str) -> Iterator[Entry]:
    """The tape that a table tells. Raises: UsageError `samples-not-understood`, naming row and column."""
    step: Any = None
    for number, row in enumerate(rows, 1):
        missing = [name for name in _NEEDED if _empty(row.get(name))]
        if missing:
            raise _not_understood(where, number, f"expected a value in {', '.join(missing)}")
        try:
            doc = _document(row)
        except (ValueError, TypeError, IndexError, AttributeError) as error:
            raise _not_understood(where, number, str(error)) from error
        if (mark := row.get("step")) not in (None, "") and str(mark) != str(step):
            if str(mark) != "0":
                yield STEP
            step = mark
        yield ["tick", doc]


def _document(row: Row) -> dict[str, Any]:
    doc: dict[str, Any] = {cohort: {} for cohort in COHORTS}
    for name, cell in row.items():
        if name in (None, "step") or _empty(cell):
            continue
        cohort, _, part = name.partition("_")
        if cohort in COHORTS and part:
            doc[cohort][part] = _part(part, cell)
        else:
            doc[name] = _finite(name, cell) if name in ("t", "dt", "weight") else _value(cell)
    if not 0.0 <= doc["weight"] <= 1.0:
        raise ValueError(f"expected a weight from 0 to 1, found {doc['weight']}")
    for cohort in COHORTS:
        arm_from_json(doc[cohort])
        n, errors = doc[cohort]["n"], doc[cohort]["errors"]
        if not 0 <= errors <= n:
            raise ValueError(f"expected 0 to {n} failures in {cohort}_errors, found {errors}")
    return doc


def _part(part: str, cell: Any) -> Any:
    if part == "latency":
        return _latency(cell)
    if part in ("n", "errors", "started"):
        number = _finite(part, cell)
        if number != int(number):
            raise ValueError(f"expected a whole number in {part}, found {cell}")
        return int(number)
    return _value(cell)


def _latency(cell: Any) -> str:
    """As text, from text or (in Parquet) a list of counts."""
    if isinstance(cell, list | tuple):
        return latency_text(cell)
    text = str(cell)
    if text.startswith("["):
        return latency_text(json.loads(text))
    latency_of(text)
    return text


def _value(cell: Any) -> Any:
    return json.loads(cell) if isinstance(cell, str) else cell


def _finite(name: str, cell: Any) -> float:
    number = float(cell)
    if not math.isfinite(number):
        raise ValueError(f"expected a number in {name}, found {cell}")
    return number


def _empty(cell: Any) -> bool:
    return cell is None or cell == ""


def beginning_from(note: Mapping[str, Any] | None, columns: Iterable[str]) -> Beginning:
    """What the judge begins with: as the note says; without one, kinds by the columns that there are."""
    if note and "began" in note:
        return Beginning.from_json(note["began"])
    known = set(columns)
    kinds = tuple(k for k in SHARES if k == "errors" or any(f"{c}_{k}" in known for c in COHORTS))
    return Beginning(kinds=kinds)


def _not_understood(where: str, row: int, problem: str) -> UsageError:
    return UsageError(
        "samples-not-understood",
        problem,
        where=f"{where}, row {row}",
        remedy="docs/judge.md describes the columns; rebake replay ENV --export FILE.csv writes an example",
    )
