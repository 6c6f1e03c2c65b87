"""Files of samples: CSV, and Parquet where the extra `parquet` is installed. `rebake.judge.table` has the columns."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rebake.core.atomic import write_atomic
from rebake.errors import UsageError
from rebake.judge.table import beginning_from, columns_of, entries_from, not_understood
from rebake.judge.tape import Beginning, Entry

SUFFIXES = (".csv", ".parquet")
_NOTE = b"rebake"


def is_samples(target: str) -> bool:
    return target.lower().endswith(SUFFIXES)


def write(target: Path, rows: Sequence[Mapping[str, Any]], note: Mapping[str, Any]) -> None:
    """Raises: UsageError `file-unwritable`, `parquet-missing`, `wrong-usage` for another kind of file."""
    if not is_samples(target.name):
        raise UsageError(
            "wrong-usage", f"expected a file that ends in .csv or .parquet, found {target.name}", where="--export"
        )
    text = json.dumps(note, ensure_ascii=False, separators=(",", ":"))
    data = _parquet(rows, text) if target.suffix.lower() == ".parquet" else _csv(rows, text)
    try:
        write_atomic(target, data)
    except OSError as error:
        raise UsageError("file-unwritable", f"cannot write: {error.strerror}", where=str(target)) from error


def read(source: Path) -> tuple[Beginning, list[Entry]]:
    """What the judge begins with, and the tape that the file tells.

    Raises: UsageError `file-unreadable`, `samples-not-understood`, `parquet-missing`.
    """
    try:
        data = source.read_bytes()
    except OSError as error:
        raise UsageError("file-unreadable", f"cannot read: {error.strerror}", where=str(source)) from error
    name = str(source)
    try:
        columns, rows, note = _parsed(source, data)
        beginning = beginning_from(note, columns)
    except (ValueError, TypeError, KeyError, csv.Error) as error:
        raise not_understood(name, str(error)) from error
    entries = list(entries_from(rows, name))
    if not entries:
        raise not_understood(name, "expected at least one row of samples, found none")
    return beginning, entries


Placed = Iterable[tuple[str, Mapping[str, Any]]]
"""Rows with their places."""


def _parsed(source: Path, data: bytes) -> tuple[Sequence[str], Placed, Any]:
    if source.suffix.lower() == ".parquet":
        return _read_parquet(source)
    text = data.decode("utf-8-sig")
    note, before = None, 0
    if text.startswith("#"):
        first, _, text = text.partition("\n")
        note, before = json.loads(first.lstrip("# ")), 1
    reader = csv.DictReader(io.StringIO(text))
    rows = ((f"line {reader.line_num + before}", row) for row in reader)
    return list(reader.fieldnames or ()), rows, note


def _csv(rows: Sequence[Mapping[str, Any]], note: str) -> bytes:
    out = io.StringIO()
    out.write(f"# {note}\n")
    writer = csv.DictWriter(out, columns_of(rows), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def _arrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UsageError(
            "parquet-missing",
            "expected the library that reads Parquet, found none",
            where="pyarrow",
            remedy="pip install 'rebake[parquet]', or use a .csv file",
        ) from error
    return pyarrow


def _parquet(rows: Sequence[Mapping[str, Any]], note: str) -> bytes:
    arrow = _arrow()
    columns = {name: [row.get(name) for row in rows] for name in columns_of(rows)}
    table = arrow.table(columns).replace_schema_metadata({_NOTE: note.encode()})
    out = io.BytesIO()
    arrow.parquet.write_table(table, out, compression="zstd")
    return out.getvalue()


def _read_parquet(source: Path) -> tuple[Sequence[str], Placed, Any]:
    arrow = _arrow()
    try:
        table = arrow.parquet.read_table(source)
    except arrow.ArrowException as error:
        raise ValueError(str(error)) from error
    note = (table.schema.metadata or {}).get(_NOTE)
    rows = ((f"row {number}", row) for number, row in enumerate(table.to_pylist(), 1))
    return table.column_names, rows, None if note is None else json.loads(note)
