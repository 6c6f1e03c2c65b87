"""A long chain verified by several processes, each over a span of it.

They find whole what is whole. Where an entry is not, where two spans do not join, or where a process could not do its
part, the one careful reader reads everything and says what is wrong and where.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine

from rebake.ledger import chain
from rebake.ledger.database import statements

WORTH_ENTRIES = 200_000
"""A process takes a tenth of a second to begin, in which that many are hardly read."""
MOST_PROCESSES = 4
COMMAND: Sequence[str] = (sys.executable, "-P", "-m", "rebake.ledger.span_worker")


@dataclass
class _Walk:
    """One process at work. `said`: its last document."""

    process: subprocess.Popen[str]
    tell: Callable[[], None]
    read: int = 0
    said: Mapping[str, Any] = field(default_factory=dict)

    def listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said = json.loads(line)
            if "read" in self.said:
                self.read = self.said["read"]
                self.tell()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


def processes() -> int:
    """How many work at once: as many as this process may use, within reason."""
    return min(MOST_PROCESSES, len(os.sched_getaffinity(0)))


def walked(engine: Engine, last: int, reader: chain.Reader, progress: Callable[[int], None], count: int) -> bool:
    """Take a reader from the beginning of a chain over all its entries, if they are whole.

    Args:
        last: the number of the last entry.
        count: into how many spans it is cut.
    Returns: False where anything is not as it should be; then nothing of the reader has changed.
    """
    edges = [last * n // count for n in range(count + 1)]
    spans = [(edges[n] + 1, edges[n + 1]) for n in range(count)]
    walks: list[_Walk] = []

    def tell() -> None:
        progress(sum(walk.read for walk in walks))

    try:
        walks += [_begin(engine, span, reader.expected, tell) for span in spans]
        listening = [threading.Thread(target=walk.listen, daemon=True) for walk in walks]
        for thread in listening:
            thread.start()
        for thread in listening:
            thread.join()
        return _joined([walk.said for walk in walks], spans, reader)
    except OSError:
        return False
    finally:
        for walk in walks:
            walk.end()


def _joined(said: Sequence[Mapping[str, Any]], spans: Sequence[tuple[int, int]], reader: chain.Reader) -> bool:
    place, met = reader.hash, False
    for span, (first, last) in zip(said, spans, strict=True):
        if not span.get("whole") or span["previous"] != place or span["entries"] != last - first + 1:
            return False
        place, met = span["hash"], met or span["met"]
    reader.stand(spans[-1][1], place, entries=spans[-1][1], met_expected=met)
    return True


def _begin(engine: Engine, span: tuple[int, int], expect_head: str | None, tell: Callable[[], None]) -> _Walk:
    process = subprocess.Popen(
        COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    task = {
        "dialect": engine.dialect.name,
        "place": _place(engine),
        "query": _query(engine, span),
        "first": span[0],
        "expect_head": expect_head,
    }
    assert process.stdin is not None
    with process.stdin as told:
        json.dump(task, told)
    return _Walk(process, tell)


def _place(engine: Engine) -> dict[str, Any]:
    if engine.dialect.name == "sqlite":
        return {"path": engine.url.database}
    args, words = engine.dialect.create_connect_args(engine.url)
    return {"args": list(args), "words": {name: value for name, value in words.items() if isinstance(value, str | int)}}


def _query(engine: Engine, span: tuple[int, int]) -> str:
    """The statement with its numbers in it: a driver of its own runs it."""
    statement = statements.proofs_between(engine.dialect.name, *span)
    return str(statement.compile(dialect=engine.dialect, compile_kwargs={"literal_binds": True}))
