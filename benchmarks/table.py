"""Rows of figures as a table, and whether every bar was reached."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def show(rows: Sequence[dict[str, Any]]) -> int:
    """Print the rows. Returns 0 if every bar was reached, else 1; a row without a bar is only shown."""
    missed = 0
    for row in rows:
        ok = row.get("ok")
        missed += ok is False
        mark = {True: "✓", False: "✗", None: " "}[ok]
        ratio = f"  {_short(row['ratio'])} of {_short(row['peer'])}" if row.get("ratio") is not None else ""
        bar = f"  (bar {_short(row['bar'])})" if row.get("bar") is not None else ""
        print(f"{mark} {row['figure']}: {_short(row['value'])} {row['unit']}{bar}{ratio}", flush=True)
    return 1 if missed else 0


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
