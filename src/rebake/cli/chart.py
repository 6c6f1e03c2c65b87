"""The course of a rollout as a chart in text. Pure: the explanation of docs/api.md in, lines out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rebake.cli.output import paint
from rebake.cli.words import outcome_word, plural
from rebake.judge import texts
from rebake.judge.picture import clock, worst_metrics

Doc = Mapping[str, Any]
_LABEL = 11
_ROWS = 8
_WEIGHT_ROWS = 3
_NARROWEST = 30


def chart(doc: Doc, *, width: int = 80, plain: bool = False) -> list[str]:
    """Everything: how it ended, the share, the evidence, the figures of both cohorts, and what happened when.

    Args:
        width: columns of the terminal.
        plain: ASCII only.
    """
    place = f"{doc['service']}/{doc['environment']}"
    lines = [f"{place}, rollout {doc['rollout']}: {outcome_word(doc['outcome'])}", f"  {doc['reason']}"]
    course = doc["course"]
    if not course:
        return [*lines, "", "  nothing was judged: no request of the candidate was compared with stable's"]
    if doc["tape"] is None:
        lines.append("  (what the judge was fed is not kept any more: only the course of the evidence is)")
    columns = max(_NARROWEST, width - _LABEL - 2)
    sampled = across(course, columns)
    if doc["tape"] is not None:
        lines += ["", *_share(sampled, course, plain)]
    lines += ["", *_evidence(sampled, float(doc["needed"]), plain)]
    lines += [_axis(course, columns), *_metrics(course, columns, float(doc["needed"]), plain)]
    lines += ["", *_cohorts(doc)]
    if doc["tape"] == "full":
        lines.append("  the tape was full: what came later was judged and not kept")
    return [*lines, "", *_events(doc)]


def across(course: Sequence[Doc], columns: int) -> list[Doc]:
    """The course by columns of equal time: in each the point with the most evidence, else the one before."""
    first, last = course[0]["t"], course[-1]["t"]
    span = (last - first) or 1.0
    found: list[Doc | None] = [None] * columns
    for point in course:
        column = min(int((point["t"] - first) / span * columns), columns - 1)
        there = found[column]
        if there is None or point["evidence"] >= there["evidence"]:
            found[column] = point
    filled: list[Doc] = []
    for there in found:
        filled.append(there if there is not None else filled[-1])
    return filled


def _rows(levels: Sequence[float], rows: int, plain: bool) -> list[str]:
    """Columns as high as their level (0 to 1), top row first."""
    signs = " .:#" if plain else " ▁▂▃▄▅▆▇█"
    top = len(signs) - 1
    drawn = []
    for row in reversed(range(rows)):
        parts = [min(max(level * rows - row, 0.0), 1.0) for level in levels]
        drawn.append("".join(signs[math.ceil(part * top - 1e-9)] for part in parts))
    return drawn


def _share(sampled: Sequence[Doc], course: Sequence[Doc], plain: bool) -> list[str]:
    most = max(*(point["weight"] for point in course), 0.001)
    rows = _rows([point["weight"] / most for point in sampled], _WEIGHT_ROWS, plain)
    edge = "|" if plain else "│"
    labels = [texts.percent(most), "", "0 %"]
    held = "".join(("#" if plain else "▔") if p["brake"] or p["fault"] else " " for p in sampled)
    lines = [f"  share of the candidate{': held by the brake where marked below' if held.strip() else ''}"]
    lines += [f"{label:>{_LABEL - 1}} {edge}{row}" for label, row in zip(labels, rows, strict=True)]
    return [*lines, f"{'':>{_LABEL - 1}} {' '}{paint(held.rstrip(), 'red')}"] if held.strip() else lines


def _evidence(sampled: Sequence[Doc], needed: float, plain: bool) -> list[str]:
    """On a logarithmic scale from 1; the line is what takes the candidate back."""
    peak = max(point["evidence"] for point in sampled)
    decades = max(math.log10(needed), min(math.log10(max(peak, 1.0)), math.log10(needed) + 2))
    levels = [min(math.log10(max(p["evidence"], 1.0)) / decades, 1.0) for p in sampled]
    rows = _rows(levels, _ROWS, plain)
    limit = _ROWS - min(max(math.ceil(math.log10(needed) / decades * _ROWS - 1e-9), 1), _ROWS)
    dash, edge = ("-", "|") if plain else ("╌", "│")
    lines = [f"  evidence against the candidate, by its logarithm; {texts.number(needed)} takes it back"]
    for index, row in enumerate(rows):
        value = 10 ** (decades * (_ROWS - index) / _ROWS)
        told = index % 2 == 0 and abs(index - limit) > 1
        label = texts.number(needed) if index == limit else texts.evidence(value) if told else ""
        drawn = row.replace(" ", dash) if index == limit else row
        lines.append(f"{label:>{_LABEL - 1}} {edge}{paint(drawn, 'red') if index == limit else drawn}")
    return lines


def _axis(course: Sequence[Doc], columns: int) -> str:
    first, last = clock(course[0]["t"]), clock(course[-1]["t"])
    return f"{'':>{_LABEL}} {first}{last:>{max(columns - len(first), 1)}}"


def _metrics(course: Sequence[Doc], columns: int, needed: float, plain: bool) -> list[str]:
    """Each metric's own evidence in one line."""
    names = worst_metrics(course, 5)
    if len(names) < 2:
        return []
    widest = min(max(len(name) for name in names), 28)
    lines = ["", "  by metric, each for itself (its greatest evidence at the end of the line):"]
    for name in names:
        values = [float(point["metrics"].get(name, 1.0)) for point in course]
        spark = texts.sparkline(values, width=max(8, columns - widest - 10), top=needed, plain=plain)
        lines.append(f"  {name[:widest]:<{widest}}  {spark}  {texts.evidence(max(values))}")
    return lines


def _cohorts(doc: Doc) -> list[str]:
    lines = []
    for cohort in ("stable", "candidate"):
        counted = doc["course"][-1][cohort] if doc["tape"] is not None else (doc["requests"] or {}).get(cohort)
        if not counted:
            continue
        n, k = counted["total"], counted["errors"]
        share = f" ({texts.percent(k / n)})" if n else ""
        lines.append(f"  {cohort:<9}: {plural(n, 'request')}, {plural(k, 'failure')}{share}")
    verdict = doc.get("verdict")
    if verdict and verdict.get("left") and verdict["verdict"] != "harmful":
        lines.append(f"  {verdict['left']}")
    return lines


def _events(doc: Doc) -> list[str]:
    """What happened, with the second since the judge's first tick."""
    width = max((len(clock(event["t"])) for event in doc["events"]), default=0)
    return [f"  {clock(event['t']):>{width}}  {event['text']}" for event in doc["events"]]
