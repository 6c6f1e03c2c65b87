"""The queue: letters wait, are taken by one worker, and are done once.

A letter is taken in one transaction and done in another; a worker that dies in between leaves it taken, and after
`FORGOTTEN_SECONDS` somebody else takes it. So a letter is never lost, and its result is written once: with the stamp in
the same transaction that says it is done.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

FORGOTTEN_SECONDS = 30.0
TABLES = """
CREATE TABLE IF NOT EXISTS letters (
    id INTEGER PRIMARY KEY, text TEXT NOT NULL, taken_by TEXT, taken_at REAL, done_by TEXT, stamp TEXT
)
"""


class Queue:
    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, timeout=10, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute(TABLES)

    def put(self, text: str) -> int:
        found = self._db.execute("INSERT INTO letters (text) VALUES (?)", (text,)).lastrowid
        assert found is not None
        return found

    def take(self, worker: str) -> tuple[int, str] | None:
        """One letter for this worker alone; None when nothing waits."""
        now = time.time()
        row = self._db.execute(
            "UPDATE letters SET taken_by = ?, taken_at = ? WHERE id = (SELECT id FROM letters WHERE stamp IS NULL"
            " AND (taken_by IS NULL OR taken_at < ?) ORDER BY id LIMIT 1) RETURNING id, text",
            (worker, now, now - FORGOTTEN_SECONDS),
        ).fetchone()
        return None if row is None else (row[0], row[1])

    def done(self, letter: int, worker: str, stamp: str) -> bool:
        """Write the result. False when somebody else took the letter meanwhile: then it is theirs."""
        changed = self._db.execute(
            "UPDATE letters SET done_by = ?, stamp = ? WHERE id = ? AND taken_by = ? AND stamp IS NULL",
            (worker, stamp, letter, worker),
        )
        return changed.rowcount == 1

    def counts(self) -> dict[str, int]:
        """How many letters wait, are under way, and are done."""
        waiting, taken, done = self._db.execute(
            "SELECT coalesce(sum(stamp IS NULL AND taken_by IS NULL), 0),"
            " coalesce(sum(stamp IS NULL AND taken_by IS NOT NULL), 0),"
            " coalesce(sum(stamp IS NOT NULL), 0) FROM letters"
        ).fetchone()
        return {"waiting": waiting, "taken": taken, "done": done}
