"""Views of docs/api.md as people read them. Pure: views in, lines out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rebake.cli.output import paint, shows_blocks
from rebake.core.clock import iso
from rebake.judge import texts

View = Mapping[str, Any]
COHORTS = ("stable", "candidate")
_OUTCOME_SHADE = {"promoted": "green", "rolled-back": "red", "failed": "red", "refused": "yellow", "stopped": "yellow"}


def short(digest: str | None) -> str:
    """The twelve digits people read.

    >>> short("sha256:" + "ab" * 32), short(None)
    ('abababababab', '-')
    """
    return digest.removeprefix("sha256:")[:12] if digest else "-"


def percent(share: float) -> str:
    """A fraction as a share, without false digits.

    >>> percent(0.05), percent(0.001), percent(1.0), percent(0.125)
    ('5%', '0.1%', '100%', '12.5%')
    """
    return f"{share * 100:.2f}".rstrip("0").rstrip(".") + "%"


def seconds(value: float) -> str:
    """
    >>> seconds(0.0421), seconds(0.25), seconds(4.24), seconds(75), seconds(7500)
    ('42 ms', '0.25 s', '4.2 s', '1 min 15 s', '2 h 5 min')
    """
    if value < 0.1:
        return f"{value * 1000:.0f} ms"
    if value < 1:
        return f"{value:.2f} s"
    if value < 60:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def moment(at: str | float) -> str:
    """A time as RFC 3339, whether it came so or in seconds since the epoch.

    >>> moment(0), moment("2026-01-02T03:04:05.000Z")
    ('1970-01-01T00:00:00.000Z', '2026-01-02T03:04:05.000Z')
    """
    return at if isinstance(at, str) else iso(at)


def table(rows: Iterable[Sequence[str]], *, indent: str = "") -> list[str]:
    """Rows in columns as wide as their widest cell; the last one is as long as it is."""
    cells = [list(row) for row in rows]
    if not cells:
        return []
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)
    return [indent + line.rstrip() for line in lines]


def outcome_word(outcome: str | None) -> str:
    """The outcome in its colour."""
    if outcome is None:
        return "under way"
    return paint(outcome, _OUTCOME_SHADE.get(outcome, "bold"), "bold")


def step_of(view: View) -> str:
    """
    >>> step_of({"state": "shifting", "step": 1, "steps": 4}), step_of({"state": "checking", "step": 0, "steps": 4})
    ('shifting, step 1 of 4', 'checking')
    """
    under_way = view.get("steps") and view.get("step")
    return f"{view['state']}, step {view['step']} of {view['steps']}" if under_way else str(view["state"])


def asks(view: View) -> str | None:
    """What a person can answer when the rollout waits for one.

    >>> asks({"state": "asking", "environment": "production"})
    'to go on: rebake approve production; to end it: rebake stop production'
    >>> asks({"state": "holding", "environment": "production", "held": {"why": "frozen", "until": None}})
    'held; to go on now: rebake approve production; to end it: rebake stop production'
    """
    if view["state"] != "asking":
        if not view.get("held"):
            return None
        return f"held; to go on now: rebake approve {view['environment']}; to end it: rebake stop {view['environment']}"
    return f"to go on: rebake approve {view['environment']}; to end it: rebake stop {view['environment']}"


def hindrance(view: View) -> str | None:
    """Why nothing can go on with a rollout.

    >>> hindrance({"hindered": ["the engine cannot go on: the disk is full (rebake gc)"]})
    'the engine cannot go on: the disk is full (rebake gc)'
    """
    return "; ".join(view.get("hindered", ())) or None


def frozen_line(freeze: View) -> str:
    """
    >>> frozen_line({"environment": None, "by": "ann", "until": "2026-01-02T03:04:05.000Z", "reason": "calm"})
    'every environment is frozen by ann until 2026-01-02T03:04:05.000Z: calm'
    """
    what = freeze["environment"] or "every environment"
    return f"{what} is frozen by {freeze['by']} until {freeze['until']}: {freeze['reason']}"


def share_of(environment: View, cohort: str) -> float:
    """A cohort's share of the route. Stable and candidate of one revision are told apart by the rollout's route."""
    fleet = environment.get(cohort)
    if not fleet:
        return 0.0
    of_rollout = (environment.get("rollout") or {}).get("route") or {}
    share = of_rollout[cohort] if cohort in of_rollout else environment.get("route", {}).get(fleet["revision"], 0.0)
    return float(share)


def requests_of(view: View, cohort: str) -> str:
    """
    >>> requests_of({"requests": {"stable": {"total": 1, "errors": 0}}}, "stable")
    '1 request, 0 errors'
    >>> requests_of({"requests": {"candidate": {"total": 50, "errors": 3}}, "shielded": 3}, "candidate")
    '50 requests, 3 errors (3 shielded)'
    """
    return ", ".join(counted(view, cohort))


def counted(view: View, cohort: str) -> tuple[str, str]:
    """What the judge counted of a cohort, and what of it was bad. A fleet without a route has no requests.

    >>> counted({"routed": False, "requests": {"stable": {"total": 40, "errors": 1}}}, "stable")
    ('40 instance-seconds', '1 failure')
    >>> counted({"routed": False, "run_kind": "job", "requests": {"stable": {"total": 2, "errors": 0}}}, "stable")
    ('2 runs', '0 failed')
    """
    count = (view.get("requests") or {}).get(cohort) or {"total": 0, "errors": 0}
    if view.get("run_kind") == "job":
        return plural(count["total"], "run"), f"{count['errors']:,} failed"
    if not view.get("routed", True):
        return plural(count["total"], "instance-second"), plural(count["errors"], "failure")
    return plural(count["total"], "request"), errors_of(view, cohort)


def errors_of(view: View, cohort: str) -> str:
    """A cohort's errors, and how many of the candidate's users did not see.

    >>> errors_of({}, "candidate")
    '0 errors'
    """
    counted = (view.get("requests") or {}).get(cohort) or {"errors": 0}
    shielded = view.get("shielded") if cohort == "candidate" else 0
    return plural(counted["errors"], "error") + (f" ({shielded:,} shielded)" if shielded else "")


def plural(count: int, word: str) -> str:
    """
    >>> plural(1, "entry"), plural(3, "entry"), plural(0, "fault")
    ('1 entry', '3 entries', '0 faults')
    """
    many = word[:-1] + "ies" if word.endswith("y") else word + "s"
    return f"{count:,} {word if count == 1 else many}"


def cohort_rows(environment: View) -> list[list[str]]:
    """One row for each cohort: name, revision, share, health."""
    return [
        [
            cohort,
            short(fleet["revision"]),
            percent(share_of(environment, cohort)),
            _size_of(environment, fleet),
        ]
        for cohort in COHORTS
        if (fleet := environment.get(cohort))
    ]


def _size_of(environment: View, fleet: View) -> str:
    if environment.get("run_kind") == "job":
        return "runs by its schedule"
    if fleet["healthy"] is None:
        return plural(fleet["instances"], "instance")
    return f"{fleet['healthy']} of {fleet['instances']} healthy"


def run_lines(environment: View, most: int = 3) -> list[str]:
    """A scheduled job's latest runs, and when the next one is due."""
    lines = []
    for run in environment.get("runs", ())[-most:]:
        told = f"{run['outcome']} after {run['seconds']:g}s" if run["outcome"] else f"runs for {run['seconds']:g}s"
        why = f": {run['why']}" if run["outcome"] not in (None, "done") else ""
        lines.append(f"  run of {run['slot']} ({run['cohort']}, {run['instance']}) {told}{why}")
    return lines + ([f"  next run {environment['next_run']}"] if environment.get("next_run") else [])


def _without_route(environment: View) -> str | None:
    if environment.get("run_kind") == "job":
        return "a scheduled job: shares are of its runs"
    return None if environment.get("routed", True) else "no route: shares are of the live instances"


def environment_lines(environment: View) -> list[str]:
    """An environment at a glance."""
    name = paint(f"{environment['service']}/{environment['environment']}", "bold")
    lines = [
        "  ".join(filter(None, [name, environment["platform"], environment["listen"] or _without_route(environment)]))
    ]
    lines += table(cohort_rows(environment), indent="  ") or ["  nothing serves"]
    lines += run_lines(environment)
    rollout, last = environment.get("rollout"), environment.get("last")
    if rollout:
        lines.append(f"  rollout {rollout['rollout']}: {step_of(rollout)}: {rollout['reason']}")
        lines += [*_judged(rollout)]
        lines += [f"  {paint(question, 'yellow', 'bold')}" for question in [asks(rollout)] if question]
        lines += [f"    {text}" for text in metric_lines(rollout.get("verdict") or {})]
    elif last:
        lines.append(f"  last rollout {last['rollout']}: {outcome_word(last['outcome'])}: {last['reason']}")
    lines += [f"  {paint('frozen', 'yellow', 'bold')}: {frozen_line(f)}" for f in environment.get("frozen", ())]
    if environment.get("waiting"):
        lines.append(f"  waiting for it to end: {', '.join(environment['waiting'])}")
    lines += [f"  {paint('problem', 'red', 'bold')}: {problem}" for problem in environment.get("problems", ())]
    return lines


def metric_lines(verdict: View) -> list[str]:
    """One line for each metric of the service's own.

    >>> metric_lines({"own_metrics": [{"name": "queue-age", "state": "compared", "observe": True, "evidence": 1.25,
    ... "text": "3 on the candidate against 2 on stable", "problem": None}]})
    ['metric queue-age (observed only): 3 on the candidate against 2 on stable; evidence 1.25']
    """
    lines = []
    for said in verdict.get("own_metrics") or ():
        remark = " (observed only)" if said["observe"] else ""
        text = said["text"].removeprefix(f"metric {said['name']}: ")
        if said["state"] != "missing":
            text += f"; evidence {said['evidence']:.3g}"
        if said["state"] == "suspended":
            text += f"; not compared now: {said['problem']}"
        lines.append(f"metric {said['name']}{remark}: {text}")
    return lines


def evidence_line(view: View, width: int = 24) -> tuple[str, str] | None:
    """The judge's evidence over time as a sparkline up to what takes the candidate back, and in words; None where
    nothing was judged yet."""
    verdict, course = view.get("verdict"), view.get("evidence") or []
    if not verdict or not course:
        return None
    values = [float(value) for _, value in course]
    spark = texts.sparkline(values, width=width, top=verdict["needed"], plain=not shows_blocks())
    numbers = f"evidence {texts.evidence(verdict['evidence'])} of {texts.number(verdict['needed'])} needed"
    braked = ", braked" if verdict.get("brake") and verdict["verdict"] != "harmful" else ""
    return spark, f"{verdict['verdict']}{braked}: {numbers}"


def _judged(rollout: View) -> list[str]:
    line = evidence_line(rollout)
    if line is None:
        return []
    said = [f"  judge    {line[0]} {line[1]}"]
    reason = rollout["verdict"]["reason"]
    return said if reason in (rollout.get("reason") or "") else [*said, f"           {reason}"]


def instance_rows(environment: View) -> list[list[str]]:
    rows = [["INSTANCE", "COHORT", "REVISION", "STATE", "ADDRESS", "PID", ""]]
    for i in environment.get("instances", ()):
        health = {True: "healthy", False: "unhealthy", None: "not probed"}[i["healthy"]]
        remark = i.get("detail") or ("drifted" if i.get("drift") else "")
        state = f"{i['state']}, {health}" if i["state"] == "running" else i["state"]
        cells = [i["id"], i["cohort"], short(i["revision"]), state, i["address"], i["pid"], remark]
        rows.append([str(cell) if cell not in (None, "") else "-" for cell in cells[:-1]] + [str(remark)])
    return rows


def environment_details(environment: View) -> list[str]:
    """Everything about one environment: also its instances and where it can go back to."""
    lines = environment_lines(environment)
    if environment.get("instances"):
        lines += ["", *table(instance_rows(environment), indent="  ")]
    previous = environment.get("previous") or []
    if previous:
        back = f"rebake undo {environment['environment']}"
        lines += ["", f"  undo goes back to {short(previous[0])}: {back}"]
    return lines


def history_rows(views: Iterable[View]) -> list[list[str]]:
    rows = [["STARTED", "ROLLOUT", "KIND", "REVISION", "OUTCOME", "TOOK", "REASON"]]
    rows += [
        [
            view["started"],
            view["rollout"],
            view["kind"],
            short(view["revision"]),
            view["outcome"] or "under way",
            seconds(view["seconds"]),
            view["reason"] or "",
        ]
        for view in views
    ]
    return rows
