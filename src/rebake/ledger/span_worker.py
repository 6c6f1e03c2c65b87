"""`python -m rebake.ledger.span_worker`: checks one span of a chain, in a process of its own.

It is told what to read in one JSON document on standard input (never on its command line: the password of a database is
in there), and answers in lines of JSON: how many entries it has read, now and then, and at last whether all of them are
whole and which hashes its ends have. It decides nothing else: whoever started it compares the ends, and looks again,
with care, where anything is amiss.

Importing this module must stay cheap: no part of it needs more than the database's own driver.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rebake.ledger.chain import Reader

Page = Sequence[tuple[int, str, str, bytes | None]]

CHUNK = 5000


def check(pages: Iterator[Page], first: int, expect_head: str | None, say: Callable[[int], None]) -> Mapping[str, Any]:
    """Walk over the entries from number `first` on.

    Returns: `{"whole"}`, and of a whole span `{"previous", "hash", "entries", "met"}`: what its first entry follows,
        the hash of its last, their count, and whether the expected hash was among them.
    """
    reader: Reader | None = None
    previous = ""
    for page in pages:
        if reader is None:
            previous = page[0][1]
            reader = Reader(expect_head, after=(first - 1, previous))
        if not reader.step_over(page):
            return {"whole": False}
        say(reader.entries)
    if reader is None:
        return {"whole": False}
    return {
        "whole": True,
        "previous": previous,
        "hash": reader.hash,
        "entries": reader.entries,
        "met": reader.met_expected,
    }


@contextmanager
def _sqlite(place: Mapping[str, Any], query: str) -> Iterator[Iterator[Page]]:
    import sqlite3

    connection = sqlite3.connect(place["path"], isolation_level=None)
    try:
        connection.execute("PRAGMA query_only=ON").close()
        cursor = connection.execute(query)
        yield iter(lambda: cursor.fetchmany(CHUNK), [])
    finally:
        connection.close()


@contextmanager
def _postgresql(place: Mapping[str, Any], query: str) -> Iterator[Iterator[Page]]:
    import psycopg

    with (
        psycopg.connect(*place["args"], **place["words"]) as connection,
        # Binary: the text of an entry comes as it is, not as twice as many hexadecimal digits.
        psycopg.ServerCursor(connection, "span") as cursor,
    ):
        connection.read_only = True
        cursor.execute(query.encode(), binary=True)
        yield iter(lambda: cursor.fetchmany(CHUNK), [])


def main() -> None:
    told = json.load(sys.stdin)

    def say(**doc: Any) -> None:
        print(json.dumps(doc), flush=True)

    reading = _sqlite if told["dialect"] == "sqlite" else _postgresql
    with reading(told["place"], told["query"]) as pages:
        say(**check(pages, told["first"], told["expect_head"], lambda count: say(read=count)))


if __name__ == "__main__":
    main()
