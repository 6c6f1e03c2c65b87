"""The notes, in SQLite. Every instance of every release uses the same file, so a note outlives them all."""

from __future__ import annotations

import sqlite3
import threading
import time
from dataclasses import dataclass
from pathlib import Path

_TABLES = """
CREATE TABLE IF NOT EXISTS notes (
    id INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    author TEXT NOT NULL,
    text TEXT NOT NULL
)
"""


@dataclass(frozen=True)
class Note:
    """One note. `at`: seconds since the epoch."""

    id: int
    at: float
    author: str
    text: str


class Store:
    """Safe from several threads and from several processes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mine = threading.local()
        self._connection().execute(_TABLES)

    def newest(self, limit: int) -> list[Note]:
        """The newest notes, newest first."""
        query = "SELECT id, at, author, text FROM notes ORDER BY id DESC LIMIT ?"
        return [Note(*row) for row in self._connection().execute(query, (limit,))]

    def add(self, author: str, text: str) -> Note:
        """Write a note; it is in the file when this returns."""
        at = time.time()
        insert = "INSERT INTO notes (at, author, text) VALUES (?, ?, ?)"
        number = self._connection().execute(insert, (at, author, text)).lastrowid
        return Note(number or 0, at, author, text)

    def count(self) -> int:
        """How many notes there are."""
        number: int = self._connection().execute("SELECT count(*) FROM notes").fetchone()[0]
        return number

    def _connection(self) -> sqlite3.Connection:
        if not hasattr(self._mine, "connection"):
            connection = sqlite3.connect(self._path, timeout=10, isolation_level=None)
            connection.execute("PRAGMA journal_mode=WAL")  # readers and a writer at once, also of other instances
            connection.execute("PRAGMA synchronous=NORMAL")
            self._mine.connection = connection
        found: sqlite3.Connection = self._mine.connection
        return found
