"""`rebake tour`: every claim shown with the real command line, a real service and real load, and checked as it is made.

The tour fails (exit 1) if one of its claims is not true, names it, and leaves nothing running either way.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rebake.tour.load import Load, Report, Request
from rebake.tour.stage import Stage, stage

RATE = 150.0
MIX = (
    Request("/notes", weight=6),
    Request("/", weight=3),
    Request("/notes", "POST", b'{"author": "tour", "text": "note {n}"}'),
)
DRIFT_SECONDS = 45.0

_QUERY = "    notes = request.instance.store.newest(SHOWN)\n    return Answer.of([asdict"
_FAILURE = """\
    if request.number % 5 == 4:
        raise LookupError("a page of the guestbook is missing")
"""
GOOD = ("newest notes, newest first.", "newest notes, newest first, and quickly.")
BAD = (_QUERY, _FAILURE + _QUERY)


@dataclass(slots=True)
class Tour:
    """What was claimed and counted on the way."""

    figures: dict[str, Any] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    def claim(self, what: str, true: bool, found: Any = None) -> None:
        """One claim, checked. A false one is told at once and fails the tour at its end."""
        mark = "✓" if true else "✗"
        tail = "" if found is None or true else f" (found {found})"
        print(f"  {mark} {what}{tail}", flush=True)
        if not true:
            self.broken.append(what + tail)


def say(title: str, text: str) -> None:
    print(f"\n── {title}\n   {text}", flush=True)


def _until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _last(there: Stage) -> dict[str, Any]:
    history = there.ask("history", "production", "--limit", "1")["history"]
    newest: dict[str, Any] = history[0]
    return newest


def first(there: Stage, tour: Tour) -> None:
    say("1. From a folder to a served release", "Two environments; production takes only what succeeded in staging.")
    tour.claim("staging serves", there.rebake("deploy", "staging") == 0)
    tour.claim("production serves", there.rebake("deploy", "production") == 0)


def good(there: Stage, tour: Tour, load: Load) -> None:
    say("2. A good change, by canary, under load", f"{RATE:g} requests a second; one line of the source is changed.")
    there.edit("guestbook/handlers.py", *GOOD)
    tour.claim("staging takes it", there.rebake("deploy", "staging") == 0)
    before = load.report()
    tour.claim("it is promoted", there.rebake("deploy", "production") == 0)
    view, after = _last(there), load.report()
    tour.figures["promoted_in_seconds"] = view["seconds"]
    tour.claim("no request was lost", after.lost == before.lost, after.lost - before.lost)
    tour.claim("both cohorts were counted", view["requests"]["candidate"]["total"] > 0)


def bad(there: Stage, tour: Tour, load: Load) -> None:
    say(
        "3. A bad change, taken back by the judge", "Every fifth GET /notes now fails. Health and checks do not see it."
    )
    there.edit("guestbook/handlers.py", *BAD)
    tour.claim("staging, without users, is fooled", there.rebake("deploy", "staging") == 0)
    before = load.report()
    tour.claim("production takes it back (exit 3)", there.rebake("deploy", "production") == 3)
    view, after = _last(there), load.report()
    seen = after.errors - before.errors
    tour.figures |= {
        "taken_back_after_seconds": _seconds_to_judge(there, view),
        "bad_answers_users_saw": seen,
        "evidence": view["verdict"]["evidence"] if view["verdict"] else None,
    }
    tour.claim(
        "the judge found it, with numbers", view["verdict"] is not None and view["verdict"]["verdict"] == "harmful"
    )
    tour.claim("no request was lost", after.lost == before.lost, after.lost - before.lost)
    tour.claim("it cannot come back by itself (exit 4)", there.rebake("deploy", "production") == 4)
    there.edit("guestbook/handlers.py", *reversed(BAD))


def _seconds_to_judge(there: Stage, view: dict[str, Any]) -> float:
    """From the candidate's first share of users to the route read back without it, from the ledger alone."""
    rows = there.ask("ledger", "show", "--rollout", view["rollout"], "--limit", "10000")["entries"]
    moved = [(e["at_ms"], e["body"].get("to")) for e in rows if e["kind"] == "transition"]
    began = next(at for at, to in moved if to == "shifting")
    seconds: float = round((moved[-1][0] - began) / 1000, 2)
    return seconds


def undo(there: Stage, tour: Tour, load: Load) -> None:
    say("4. A changed setting, and one word to take it back", "GREETING is changed in rebake.yaml: a new revision.")
    there.greet("good evening")
    tour.claim("staging has this release", there.rebake("deploy", "staging") == 0)
    tour.claim("the new setting serves", there.rebake("deploy", "production") == 0)
    before = load.report()
    began = time.monotonic()
    tour.claim("undo says it is done", there.rebake("undo", "production") == 0)
    tour.figures["undone_in_seconds"] = round(time.monotonic() - began, 2)
    status, after = there.ask("status", "production"), load.report()
    serving = [digest for digest, share in status["route"].items() if share == 1.0]
    tour.claim("the earlier revision serves everybody", serving == [status["stable"]["revision"]])
    tour.claim("no request was lost", after.lost == before.lost, after.lost - before.lost)


def drift(there: Stage, tour: Tour, load: Load) -> None:
    say("5. Somebody edits a running server", "A line is added to a file of the sealed release, behind rebake's back.")
    victim = next(i for i in there.ask("status", "production")["instances"] if i["cohort"] == "stable")
    file = Path(f"/proc/{victim['pid']}/cwd/guestbook/page.py").resolve()
    file.chmod(0o644)
    file.write_text(file.read_text() + "# patched by hand\n")
    before, began = load.report(), time.monotonic()
    replaced = _until(lambda: not _runs(there, victim["id"]), DRIFT_SECONDS)
    tour.figures["drift_replaced_in_seconds"] = round(time.monotonic() - began, 1)
    tour.claim("the drifted instance was replaced, never repaired", replaced)
    named = [e for e in there.ask("ledger", "show", "--limit", "10000")["entries"] if e["kind"] == "drift"]
    tour.claim("the ledger names the file", "page.py" in json.dumps([e["body"] for e in named]))
    tour.claim("no request was lost", load.report().lost == before.lost, load.report().lost - before.lost)


def _runs(there: Stage, instance: str) -> bool:
    status = there.ask("status", "production")
    stable = [i for i in status["instances"] if i["cohort"] == "stable"]
    whole = sum(1 for i in stable if i["healthy"] and not i["drift"]) >= status["stable"]["instances"]
    return not whole or any(i["id"] == instance for i in stable)


def ledger(there: Stage, tour: Tour) -> None:
    say("6. The record", "Every intent, action, verdict and decision, in one chain of hashes.")
    tour.claim("the ledger verifies", there.rebake("ledger", "verify") == 0)


def perform(there: Stage, tour: Tour) -> Report | None:
    first(there, tour)
    if tour.broken:
        return None
    with Load(there.url, RATE, MIX) as load:
        for act in (good, bad, undo, drift):
            act(there, tour, load)
        report = load.stop()
    ledger(there, tour)
    return report


def _summary(tour: Tour, report: Report | None) -> None:
    if report is not None:
        tour.figures |= {"requests_served": report.answered, "requests_lost": report.lost}
    names = {
        "requests_served": "requests served",
        "requests_lost": "requests lost",
        "promoted_in_seconds": "seconds from deploy to promoted, by canary",
        "taken_back_after_seconds": "seconds from the bad release's first user to its last",
        "bad_answers_users_saw": "bad answers that users saw",
        "undone_in_seconds": "seconds to undo, as typed",
        "drift_replaced_in_seconds": "seconds until the drifted instance was replaced",
    }
    print("\n── What was counted")
    for name, text in names.items():
        if name in tour.figures:
            print(f"   {tour.figures[name]:>8}  {text}")


def main(argv: Sequence[str]) -> int:
    """Run the tour. `--json` ends with one document of its figures on standard output.

    Returns: 0 if every claim was true and nothing is left running, else 1.
    """
    as_json = "--json" in argv
    tour, report, left = Tour(), None, []
    began = time.monotonic()
    with stage() as there, redirect_stdout(sys.stderr if as_json else sys.stdout):
        try:
            report = perform(there, tour)
        except (RuntimeError, OSError, StopIteration, KeyError) as error:
            tour.broken.append(f"{type(error).__name__}: {error}")
        there.clear()
        _until(lambda: not there.processes(), 15)
        left = there.processes()
        tour.claim("nothing is left running", not left, left)
        if report is not None:
            tour.claim("not one request of the whole tour was lost", report.lost == 0, report.lost)
        tour.figures["seconds"] = round(time.monotonic() - began, 1)
        _summary(tour, report)
        for what in tour.broken:
            print(f"   ✗ {what}")
    if as_json:
        print(json.dumps({**tour.figures, "broken": tour.broken}))
    return 1 if tour.broken else 0
