"""The ledger in a relational database. One code path for SQLite and PostgreSQL."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

from sqlalchemy import Connection, Engine, Executable, select, update

from rebake.errors import LedgerConflict, Permanent, Transient
from rebake.ledger import chain
from rebake.ledger.database import schema, spans, statements
from rebake.ledger.database.engine import BUSY_SECONDS, READS_ONCE, WRITES, WRITES_LATER, shown
from rebake.ledger.database.faults import translated
from rebake.ledger.database.tables import ENTRIES, LEASES
from rebake.ledger.entries import Record, document_text, entry_of
from rebake.ledger.ports import Draft, Entry, EntryKind, Fence, Lease, Put, Verification, unheard

_CHUNK = 5000  # rows held at a time while verifying


class DatabaseLedger:
    """`rebake.ledger.ports.Ledger` over SQLAlchemy Core. Safe from several threads and processes."""

    def __init__(self, engine: Engine) -> None:
        """Open, and bring the tables up to date.

        Raises: Permanent `database-newer`, `ledger-damaged`, `disk-full`, `store-read-only`; Transient `ledger-busy`.
        """
        self._engine = engine
        self._where = shown(engine.url)
        self._reads = READS_ONCE | ({"isolation_level": "AUTOCOMMIT"} if engine.dialect.name == "postgresql" else {})
        # Writers of one process queue here, in order; SQLite's own queue is a poll that can starve one of them.
        self._turn = threading.Lock()
        with translated(self._where):
            schema.ensure(engine, self._where)

    def close(self) -> None:
        """Give the connections back. Nothing is lost without it."""
        self._engine.dispose()

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """For one statement."""
        with translated(self._where), self._engine.connect().execution_options(**self._reads) as connection:
            yield connection

    @contextmanager
    def _writing(self, *, durable: bool = True) -> Iterator[Connection]:
        if not self._turn.acquire(timeout=BUSY_SECONDS):
            raise Transient(
                "ledger-busy",
                f"other threads kept the ledger for more than {BUSY_SECONDS:.0f} s",
                where=self._where,
                remedy="try again; a slow disk shows in `rebake doctor`",
            )
        try:
            with (
                translated(self._where),
                self._engine.connect().execution_options(**(WRITES if durable else WRITES_LATER)) as connection,
                connection.begin(),
            ):
                yield connection
        finally:
            self._turn.release()

    def commit(
        self,
        entries: Sequence[Draft],
        puts: Sequence[Put] = (),
        *,
        at: float,
        fence: Fence | None = None,
        durable: bool = True,
    ) -> Sequence[Entry]:
        """See `Ledger.commit`. On the disk when it returns, if it is to be durable."""
        texts = [(put, None if put.doc is None else document_text(put.doc)) for put in puts]
        with self._writing(durable=durable) as connection:
            head = self._locked_head(connection)
            if fence is not None:
                _check_fence(connection, fence)
            records = _extend(connection, head, entries, round(at * 1000)) if entries else []
            for put, text in texts:
                _write_document(connection, put.kind, put.key, text)
        return [entry_of(record) for record in records]

    def _locked_head(self, connection: Connection) -> tuple[int, str]:
        """Queue for the head, which every writer locks first: nobody else writes until this transaction ends."""
        row = connection.execute(statements.HEAD_LOCKED).one_or_none()
        if row is None:
            raise Permanent(
                "ledger-damaged",
                "the head of the chain is gone",
                where=self._where,
                remedy="`rebake ledger verify` shows what is wrong; restore the database from a backup",
            )
        return row.seq, row.hash

    def get(self, kind: str, key: str) -> Mapping[str, Any] | None:
        """One document, or None."""
        with self._reading() as connection:
            text = connection.execute(statements.DOCUMENT, {"k": kind, "i": key}).scalar()
        return None if text is None else cast(Mapping[str, Any], json.loads(text))

    def list(self, kind: str, prefix: str = "") -> Sequence[tuple[str, Mapping[str, Any]]]:
        """Documents of one kind whose key starts with `prefix`, in key order (by code point)."""
        return self._documents(*statements.documents_of(kind, prefix))

    def keys(self, kind: str, prefix: str = "") -> Sequence[str]:
        """The keys that `list` gives, without reading the documents."""
        with self._reading() as connection:
            return connection.execute(*statements.documents_of(kind, prefix, whole=False)).scalars().all()

    def newest(self, kind: str, prefix: str, limit: int) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """The last documents in key order, last first; no more are read than are given."""
        return self._documents(*statements.documents_of(kind, prefix, limit))

    def _documents(self, statement: Executable, values: Mapping[str, Any]) -> Sequence[tuple[str, Mapping[str, Any]]]:
        with self._reading() as connection:
            rows = connection.execute(statement, values).all()
        return [(row.key, json.loads(row.doc)) for row in rows]

    def entries(
        self,
        *,
        service: str | None = None,
        environment: str | None = None,
        rollout: str | None = None,
        kinds: Sequence[EntryKind] = (),
        after: int = 0,
        limit: int = 1000,
        newest_first: bool = False,
    ) -> Sequence[Entry]:
        """Entries that fit every condition given. `after` is a sequence number."""
        query = select(ENTRIES).where(ENTRIES.c.seq > after).limit(limit)
        query = query.order_by(ENTRIES.c.seq.desc() if newest_first else ENTRIES.c.seq)
        wanted = ((ENTRIES.c.service, service), (ENTRIES.c.environment, environment), (ENTRIES.c.rollout, rollout))
        for column, value in wanted:
            if value is not None:
                query = query.where(column == value)
        if kinds:
            query = query.where(ENTRIES.c.kind.in_(kinds))
        with self._reading() as connection:
            rows = connection.execute(query).all()
        return [self._entry(Record(*row)) for row in rows]

    def _entry(self, record: Record) -> Entry:
        try:
            return entry_of(record)
        except (TypeError, ValueError) as error:
            raise Permanent(
                "ledger-damaged",
                f"entry {record.seq} was changed: its body is no JSON: {error}",
                where=self._where,
                remedy="`rebake ledger verify` shows everything that is wrong; restore the database from a backup",
            ) from error

    def head(self) -> tuple[int, str]:
        """Sequence number and hash of the last entry; (0, the genesis hash) when there is none."""
        with self._reading() as connection:
            row = connection.execute(statements.HEAD_NOW).one_or_none()
        return (0, chain.GENESIS) if row is None else (row.seq, row.hash)

    def verify(self, *, expect_head: str | None = None, progress: Callable[[int], None] = unheard) -> Verification:
        """Recompute the whole chain; see `chain.verify`. Writers go on meanwhile: it reads one snapshot."""
        walked = self._walked(expect_head, progress)
        if walked is not None:
            return walked
        server = self._engine.dialect.name == "postgresql"
        # SQLite's readers have a snapshot, and its driver streams, anyway.
        options: dict[str, Any] = {"stream_results": True, "isolation_level": "REPEATABLE READ"} if server else {}
        with translated(self._where), self._engine.connect().execution_options(**options) as connection:
            head = connection.execute(statements.HEAD_NOW).one_or_none()
            reader = chain.Reader(expect_head)
            for page in _pages(connection, statements.proofs(self._engine.dialect.name), progress):
                if not reader.step_over(page):
                    between = {"first": page[0][0], "last": page[-1][0]}
                    rows = connection.execute(statements.ENTRIES_BETWEEN, between).all()
                    reader.read(cast(Iterable[Record], rows))
            return reader.conclude(None if head is None else (head.seq, head.hash))

    def _walked(self, expect_head: str | None, progress: Callable[[int], None]) -> Verification | None:
        """What several processes find of a long chain, if it is whole up to the entry of its head: no entry before that
        is written any more, so they need no snapshot in common."""
        count = spans.processes()
        with self._reading() as connection:
            head = connection.execute(statements.HEAD_ALONE).one_or_none()
        if head is None or head.beyond or not isinstance(head.seq, int) or head.seq < spans.WORTH_ENTRIES or count < 2:
            return None
        reader = chain.Reader(expect_head)
        if not spans.walked(self._engine, head.seq, reader, progress, count):
            return None
        return reader.conclude((head.seq, head.hash))

    def lease(self, key: str, owner: str, *, at: float, ttl_seconds: float, reason: str = "") -> Fence | None:
        """See `Ledger.lease`. The same owner renews with the same token, also when it is late but was not replaced.

        It need not be on the disk at once: every intent under its token is committed durably after it, and with it.
        """
        now_ms = round(at * 1000)
        values: dict[str, Any] = {"owner": owner, "expires_ms": now_ms + round(ttl_seconds * 1000), "reason": reason}
        with self._writing(durable=False) as connection:
            self._locked_head(connection)
            row = connection.execute(statements.LEASE, {"k": key}).one_or_none()
            if row is None:
                connection.execute(statements.ADD_LEASE, {"key": key, "token": 1, "since_ms": now_ms, **values})
                return Fence(key, 1)
            if row.owner not in ("", owner) and row.expires_ms > now_ms:
                return None
            if row.owner == owner:
                connection.execute(statements.RENEW_LEASE, {"k": key, "token": row.token, **values})
                return Fence(key, row.token)
            values |= {"since_ms": now_ms}
            connection.execute(statements.TAKE_LEASE, {"k": key, "token": row.token + 1, **values})
            return Fence(key, row.token + 1)

    def release_lease(self, fence: Fence) -> None:
        """Give the lease back. Does nothing when it was taken over."""
        held = (LEASES.c.key == fence.key) & (LEASES.c.token == fence.token)
        with self._writing() as connection:
            connection.execute(update(LEASES).where(held).values(owner="", expires_ms=0))

    def held(self, *, at: float) -> Sequence[Lease]:
        """Every lease that is held at this time, by key."""
        held = (LEASES.c.owner != "") & (LEASES.c.expires_ms > round(at * 1000))
        with self._reading() as connection:
            rows = connection.execute(select(LEASES).where(held).order_by(LEASES.c.key)).all()
        # An engine of the version before writes neither reason nor since.
        return [
            Lease(r.key, r.owner, r.token, r.reason or "", (r.since_ms or 0) / 1000, r.expires_ms / 1000) for r in rows
        ]


def _pages(
    connection: Connection, statement: Executable, progress: Callable[[int], None]
) -> Iterator[Sequence[tuple[Any, ...]]]:
    """Rows, many at a time; `progress` is told how many were read."""
    result = connection.execute(statement)
    fetch: Any = result.fetchmany
    if connection.dialect.name == "sqlite" and result.cursor is not None:
        fetch = result.cursor.fetchmany  # the driver's own tuples: to make more of them takes as long as hashing them
    count = 0
    while page := fetch(_CHUNK):
        yield page
        count += len(page)
        progress(count)


def _extend(connection: Connection, head: tuple[int, str], drafts: Sequence[Draft], at_ms: int) -> Sequence[Record]:
    records = chain.extend(head, drafts, at_ms)
    connection.execute(statements.ADD_ENTRIES, [record._asdict() for record in records])
    connection.execute(statements.SET_HEAD, {"s": records[-1].seq, "h": records[-1].hash})
    return records


def _check_fence(connection: Connection, fence: Fence) -> None:
    row = connection.execute(statements.LEASE, {"k": fence.key}).one_or_none()
    if row is None or row.token != fence.token or not row.owner:
        found = "none" if row is None else f"{row.token}, held by {row.owner or 'nobody'}"
        raise LedgerConflict(
            "lease-lost",
            f"expected to hold the lease of {fence.key} with token {fence.token}, found {found}",
            where=fence.key,
            remedy="another engine has taken over and goes on; nothing needs to be done",
        )


def _write_document(connection: Connection, kind: str, key: str, text: str | None) -> None:
    if text is None:
        connection.execute(statements.DROP_DOCUMENT, {"k": kind, "i": key})
    else:
        put = statements.put_document(connection.dialect.name)
        connection.execute(put, {"k": kind, "i": key, "d": text})
