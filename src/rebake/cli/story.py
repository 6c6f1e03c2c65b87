"""A rollout told in lines, one for each change, for places that are no terminal; and how it ended, for everybody.

Pure: views in, lines and documents out.
"""

from __future__ import annotations

from typing import Any

from rebake.cli.output import paint
from rebake.cli.words import View, asks, hindrance, outcome_word, percent, requests_of, seconds, short, step_of
from rebake.judge import texts

_RESULT = (
    "rollout", "service", "environment", "release", "revision", "outcome", "reason", "verdict", "requests", "seconds",
)  # fmt: skip


def result(view: View) -> dict[str, Any]:
    """The document that ends `deploy --json`. Source: DESIGN section 5."""
    return {name: view.get(name) for name in _RESULT}


def chapter(view: View) -> tuple[Any, ...]:
    """What makes a view worth a line of its own: numbers that count up do not."""
    route = view.get("route") or {}
    checks = tuple((check["name"], check["state"]) for check in view.get("checks", ()))
    held = (view.get("held") or {}).get("why")
    return view["state"], view["step"], view["outcome"], route.get("candidate"), checks, held, hindrance(view)


def progress_line(view: View) -> str:
    """One line: time since the start, where it is, who gets how much, and why."""
    route = view.get("route") or {}
    parts = [f"[{view['seconds']:7.2f} s]", step_of(view)]
    if route.get("candidate") is not None:
        parts.append(f"candidate {percent(route['candidate'])}")
    healthy = (view.get("instances") or {}).get("candidate")
    if healthy and healthy["wanted"]:
        parts.append(f"{healthy['healthy']} of {healthy['wanted']} healthy")
    line = "  ".join([parts[0], " · ".join(parts[1:])])
    told = [text for text in (view.get("reason"), asks(view), hindrance(view)) if text]
    return f"{line}: {'; '.join(told)}" if told else line


def _checks(view: View) -> list[str]:
    failed = [check for check in view.get("checks", ()) if check["state"] not in ("passed", "waiting", "running")]
    lines: list[str] = []
    for check in failed:
        lines.append(f"  check {check['name']} {check['state']}:")
        lines += [f"    {text}" for text in check["evidence"]]
    return lines


def _met(view: View) -> bool:
    """Whether any request was counted, so that numbers say something."""
    requests = view.get("requests") or {}
    return any((requests.get(cohort) or {}).get("total") for cohort in ("stable", "candidate"))


def _verdict(view: View) -> list[str]:
    verdict = view.get("verdict")
    if not verdict or not _met(view):
        return []
    lines = []
    if verdict["reason"] not in (view.get("reason") or ""):  # once is enough
        numbers = f"evidence {texts.evidence(verdict['evidence'])} of {texts.number(verdict['needed'])} needed"
        lines.append(f"  verdict: {verdict['verdict']} ({numbers}): {verdict['reason']}")
    lines += [f"  {cohort:<9}: {requests_of(view, cohort)}" for cohort in ("stable", "candidate")]
    return lines


def evidence_lines(view: View) -> list[str]:
    """What was seen: the failing check, the judge's numbers, the last lines of the failing instance."""
    lines = [*_checks(view), *_verdict(view)]
    if view.get("log_tail"):
        lines += ["  last lines of the candidate's log:", *(f"    {text}" for text in view["log_tail"])]
    return lines


def ending(view: View) -> list[str]:
    """How it ended: cause, place, evidence and the next command. Source: DESIGN, promise 12."""
    place = f"{view['service']}/{view['environment']}"
    head = f"{outcome_word(view['outcome'])}: {place}, revision {short(view['revision'])}, {seconds(view['seconds'])}"
    if view["outcome"] == "promoted":
        return [head, *_promoted(view)]
    lines = [head, f"  cause: {view['reason']}", f"  at: rollout {view['rollout']}, release {short(view['release'])}"]
    lines += evidence_lines(view)
    lines.append(f"  {paint('next', 'bold')}: {view.get('remedy') or 'rebake status ' + view['environment']}")
    return lines


def _promoted(view: View) -> list[str]:
    lines = [f"  {view['reason']}"] if view.get("reason") else []
    if _met(view):
        lines += [f"  {cohort:<9}: {requests_of(view, cohort)}" for cohort in ("stable", "candidate")]
    if not view.get("ended"):
        lines.append("  it soaks now: stable is kept whole and the judge still watches")
    lines.append(f"  to go back: rebake undo {view['environment']}")
    return lines


def detached(environment: str) -> list[str]:
    """What is said when the terminal lets go of a rollout that goes on."""
    return [
        "detached; the rollout goes on",
        f"  to watch: rebake status {environment} --watch",
        f"  to stop:  rebake stop {environment}",
    ]
