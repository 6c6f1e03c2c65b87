"""`rebake ledger`: the record of everything that was asked, decided, done and found."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import click

from rebake.cli.client import AgentLost
from rebake.cli.options import file_option, json_option
from rebake.cli.output import emit_json, line, notice, paint
from rebake.cli.session import Session
from rebake.cli.words import plural, table
from rebake.core.clock import iso

_PAGE = 1000
_NOTICE_SECONDS = 2.0
_DAMAGED = 5


@click.group(no_args_is_help=False)
def command() -> None:
    """Read, verify and export the ledger."""


def _session() -> Session:
    session = Session()
    session.require_state()
    return session


@command.command()
@json_option
@file_option
@click.option("--after", type=click.IntRange(0), default=0, help="Only entries after this number.")
@click.option("-n", "--limit", type=click.IntRange(1, 10_000), help="How many; by default the last 50.")
@click.option("-s", "--service", metavar="NAME", help="Only this service.")
@click.option("-e", "--environment", metavar="ENV", help="Only this environment.")
@click.option("--rollout", metavar="ID", help="Only this rollout.")
def show(
    *,
    as_json: bool,
    file: Path,
    after: int,
    limit: int | None,
    service: str | None,
    environment: str | None,
    rollout: str | None,
) -> int:
    """Show entries, oldest first."""
    del file  # taken so that every verb takes it; the ledger is one for all services
    chosen = {"service": service, "environment": environment, "rollout": rollout}
    session = _session()
    if limit is None and not after and not any(chosen.values()):
        after = max(0, session.get("/v1/ledger", limit=0)["head"]["seq"] - 50)
    doc = session.get("/v1/ledger", after=after, limit=limit or 1000, **chosen)
    if as_json:
        emit_json(doc)
    else:
        for text in table([entry_row(entry) for entry in doc["entries"]]):
            line(text)
        line(f"head: {doc['head']['seq']} {doc['head']['hash']}")
    return 0


def entry_row(entry: dict[str, Any]) -> list[str]:
    """An entry as one row: number, time, place, kind, content."""
    place = "/".join(part for part in (entry["service"], entry["environment"]) if part)
    content = json.dumps(entry["body"], ensure_ascii=False)
    return [str(entry["seq"]), iso(entry["at_ms"] / 1000), place, entry["kind"], content[:160]]


@command.command()
@json_option
@click.option("--expect-head", metavar="HASH", help="A head noted earlier; finds a ledger that was cut and rewritten.")
def verify(*, as_json: bool, expect_head: str | None) -> int:
    """Recompute the whole chain: finds any changed, missing or reordered entry. Exit code 5 if there is one."""
    doc = _verified(_session(), expect_head)
    if as_json:
        emit_json(doc)
    elif doc["faults"]:
        line(f"{paint('damaged', 'red', 'bold')}: {plural(len(doc['faults']), 'fault')} in {doc['entries']} entries")
        for fault in doc["faults"]:
            line(f"  entry {fault['seq']}: {fault['problem']}")
        line("  next: restore state.db from a backup, and keep this one as evidence")
    else:
        line(f"{paint('whole', 'green', 'bold')}: {plural(doc['entries'], 'entry')}, head {doc['head']}")
    return _DAMAGED if doc["faults"] else 0


@command.command()
@json_option
def leases(*, as_json: bool) -> int:
    """Who leads which environment now, what for and until when. A lease that is not renewed ends within seconds."""
    doc = _session().get("/v1/leases")
    if as_json:
        emit_json(doc)
    elif not doc["leases"]:
        line("no environment is led now: nothing is under way")
    else:
        rows = [["ENVIRONMENT", "OWNER", "TOKEN", "SINCE", "UNTIL", "REASON"]]
        names = ("environment", "owner", "token", "since", "until", "reason")
        for text in table([*rows, *([str(row[name]) for name in names] for row in doc["leases"])]):
            line(text)
    return 0


def _verified(session: Session, expect_head: str | None) -> Any:
    """What `verify` finds. A long one says on standard error how far it is."""
    doc: Any = {}
    total = session.get("/v1/ledger", limit=0)["head"]["seq"]
    for doc in session.lines("/v1/ledger/verify", progress=1, expect_head=expect_head):
        if "checked" in doc:
            notice(f"verified {doc['checked']:,} of {total:,} entries")
    if "faults" not in doc:
        raise AgentLost(str(session.home.agent_socket))
    return doc


def _pages(session: Session) -> Iterator[dict[str, Any]]:
    """Every entry, page by page, up to the head as it is now. A long way is told on standard error."""
    head = session.get("/v1/ledger", limit=0)["head"]["seq"]
    after, told = 0, time.monotonic()
    while after < head:
        if time.monotonic() - told >= _NOTICE_SECONDS:
            told = time.monotonic()
            notice(f"exported {after:,} of {head:,} entries")
        entries = session.get("/v1/ledger", after=after, limit=_PAGE)["entries"]
        if not entries:
            return
        yield from (entry for entry in entries if entry["seq"] <= head)
        after = entries[-1]["seq"]


def _export_document(session: Session) -> None:
    """Everything as one document, written as it is read: a million entries never stand in memory."""
    last, before = session.get("/v1/ledger", limit=0)["head"], '{"entries": ['
    for last in _pages(session):
        line(before + json.dumps(last, ensure_ascii=False))
        before = ", "
    head = {"seq": last["seq"], "hash": last["hash"]}
    line(("" if before == ", " else before) + f'], "head": {json.dumps(head)}}}')


@command.command()
@json_option
@click.option("-o", "--output", type=click.File("w", encoding="utf-8", atomic=True), help="A file instead of here.")
def export(*, as_json: bool, output: TextIO | None) -> int:
    """Write every entry, one JSON object per line, the whole of what `verify` recomputes.

    With --json, one document: {"entries": […], "head": {"seq", "hash"}}.
    """
    session = _session()
    if as_json and output is None:
        _export_document(session)
        return 0
    last = None
    for last in _pages(session):
        text = json.dumps(last, ensure_ascii=False, sort_keys=True)
        if output is None:
            line(text)
        else:
            output.write(text + "\n")
    head = last["hash"] if last else ""
    notice(
        f"exported up to entry {last['seq'] if last else 0}; to verify later: rebake ledger verify --expect-head {head}"
    )
    if as_json:
        emit_json({"head": {"seq": last["seq"] if last else 0, "hash": head}})
    return 0
