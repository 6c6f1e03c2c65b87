"""What must hold between the values of one metric of the judge: one source, one form, and keys that do something.

See `spec.rules` for how rules are written.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rebake.core.units import parse_duration
from rebake.spec.report import Finding, listed
from rebake.spec.tree import Path

SOURCES = ("prometheus", "endpoint", "command")
_NUMBERS = ("percent", "absolute")
_SHARES = ("ratio", "extra")


def metric_findings(metric: dict[str, Any], path: Path) -> Iterator[Finding]:
    """The mistakes of one metric at `path`."""
    sources = [source for source in SOURCES if source in metric]
    if len(sources) != 1:
        found = f"{listed(sources).replace(' or ', ' and ')}" if sources else "none of them"
        yield Finding("metric-source", path, f"expected one of {listed(SOURCES)}, found {found}")
        return
    form = yield from _form(metric, sources[0], path)
    if form is not None:
        yield from _idle_keys(metric, sources[0], form, path)
        yield from _span(metric, form, path)


def _form(metric: dict[str, Any], source: str, path: Path) -> Any:
    """`share` or `number`; nothing where that cannot be told."""
    if source == "command":
        return "number" if metric.get("reads") == "number" else "share"
    asked = metric[source]
    if not isinstance(asked, dict):
        return None
    numbers = ("query",) if source == "prometheus" else ("value", "growth")
    chosen = [key for key in (*numbers, "hits") if key in asked]
    place = (*path, source)
    if len(chosen) != 1:
        found = " and ".join(chosen) or "none of them"
        wanted = listed([*numbers, "hits with total"])
        yield Finding("metric-form", place, f"expected one of {wanted}, found {found}")
        return None
    if ("hits" in asked) != ("total" in asked):
        lacking = "total" if "hits" in asked else "hits"
        remedy = "add total: what hits are counted out of, or $requests" if lacking == "total" else "remove total"
        yield Finding("metric-form", place, f"expected hits and total together, found no {lacking}", remedy)
        return None
    if "per" in asked and "growth" not in asked:
        yield _idle((*place, "per"), "growth", "without")
    return "share" if chosen == ["hits"] else "number"


def _idle_keys(metric: dict[str, Any], source: str, form: str, path: Path) -> Iterator[Finding]:
    """Keys that do nothing here."""
    for key in ("reads", "timeout"):
        if key in metric and source != "command":
            where = f"{source}, which has a timeout of its own" if key == "timeout" else source
            yield _idle((*path, key), "command", f"with {where}")
    for key in ("span", "loaded"):
        if key in metric and form == "share":
            yield _idle((*path, key), "numbers", "with a share")
    margin = metric.get("margin")
    for key in margin if isinstance(margin, dict) else ():
        if key in (_NUMBERS if form == "share" else _SHARES):
            other = listed(_SHARES if form == "share" else _NUMBERS)
            problem = f"expected {other} for a {form}, found {key}"
            yield Finding("key-does-nothing", (*path, "margin", key), problem, "remove the line", True)
    if source == "command" and form == "share" and metric.get("worse") == "lower":
        problem = "expected worse: higher for exit codes, where failing is what is counted, found lower"
        yield Finding("key-does-nothing", (*path, "worse"), problem, "remove the line")


def _idle(path: Path, wanted: str, found: str) -> Finding:
    problem = f"expected {path[-1]} only with {wanted}, found it {found}"
    return Finding("key-does-nothing", path, problem, "remove the line", True)


def _span(metric: dict[str, Any], form: str, path: Path) -> Iterator[Finding]:
    """A span holds one reading at least."""
    span, interval = (
        _milliseconds(metric.get(key, default)) for key, default in (("span", "30s"), ("interval", "10s"))
    )
    if form == "number" and span is not None and interval is not None and span < interval:
        problem = "expected a span as long as the interval at least"
        where = (*path, "span" if "span" in metric else "interval")
        yield Finding("span-too-short", where, f"{problem}, found {metric.get('span', '30s (the default)')}")


def _milliseconds(value: Any) -> int | None:
    try:
        return parse_duration(value) if isinstance(value, str) else None
    except ValueError:
        return None
