"""The course of a rollout as one picture (SVG), legible on light and on dark. Pure: a document in, text out.

Drawn by hand of plain shapes, so that it is one file that needs nothing: no script, no font, no library.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

from rebake.judge import texts

WIDTH, LEFT, RIGHT = 760, 64, 24
_PLOT = WIDTH - LEFT - RIGHT
_TOP, _WEIGHT, _COUNTS, _EVIDENCE, _GAP = 66, 70, 90, 150, 40
_COLOURS = ("metric-a", "metric-b", "metric-c")
_DASHES = ("none", "7 3", "2 3")
MOST_METRICS = 3
MOST_TOLD = 14

_STYLE = """
.paper{fill:#faf9f6}.ink{fill:#1d1d1b}.soft{fill:#5c5b57}.grid{stroke:#dddad2}.stable{stroke:#2f5d8a}
.candidate{stroke:#b45f06}.area{fill:#b45f06;fill-opacity:.18}.bad{stroke:#a3261f}.badtext{fill:#a3261f}
.evidence{stroke:#1d1d1b}.metric-a{stroke:#6b4fa0}.metric-b{stroke:#2b6a3f}.metric-c{stroke:#8a6d00}
.mark{stroke:#5c5b57}.held{fill:#a3261f;fill-opacity:.12}
@media (prefers-color-scheme:dark){
.paper{fill:#16171a}.ink{fill:#e9e7e2}.soft{fill:#a5a39d}.grid{stroke:#34363c}.stable{stroke:#7fb0e0}
.candidate{stroke:#eda04e}.area{fill:#eda04e}.bad{stroke:#f08a80}.badtext{fill:#f08a80}.evidence{stroke:#e9e7e2}
.metric-a{stroke:#b7a1e6}.metric-b{stroke:#7cc492}.metric-c{stroke:#e2bd5a}.mark{stroke:#a5a39d}.held{fill:#f08a80}}
text{font:12px system-ui,-apple-system,"Segoe UI","Liberation Sans",sans-serif}
.title{font-size:15px;font-weight:600}.small{font-size:11px}
path,line{fill:none;stroke-width:1.5}.grid,.mark{stroke-width:1}.mark{stroke-dasharray:2 3}.main{stroke-width:2.5}
"""


def picture(doc: Mapping[str, Any]) -> str:
    """The picture of an explanation (docs/api.md).

    >>> picture({"course": [], "events": [], "needed": 100.0}).startswith("<svg")
    True
    """
    course, told = doc["course"], _told(doc["events"])
    scale = _Scale(course, float(doc["needed"]))
    end = _TOP + _WEIGHT + _COUNTS + _EVIDENCE + 3 * _GAP
    height = end + 18 * len(told) + 40
    parts = [f'<rect class="paper" width="{WIDTH}" height="{height}" rx="6"/>', *_head(doc)]
    if course:
        parts += [*_marks(told, scale, end), *_weights(course, scale), *_counts(course, scale)]
        parts += _evidence(course, scale)
        parts += _seconds(scale, end)
    else:
        parts.append(_text(LEFT, _TOP + 40, "nothing was judged", "soft"))
    parts += [_text(LEFT, end + 34 + 18 * i, _line(i, event), "ink") for i, event in enumerate(told)]
    label = escape(_printable(_title(doc)), {'"': "&quot;"})
    frame = f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    return f'<svg {frame} role="img" aria-label="{label}"><style>{_STYLE}</style>\n' + "\n".join(parts) + "\n</svg>\n"


class _Scale:
    """Seconds and evidence to places on the paper."""

    def __init__(self, course: Sequence[Mapping[str, Any]], needed: float) -> None:
        self.first = min((p["t"] for p in course), default=0.0)
        self.last = max((p["t"] for p in course), default=1.0)
        self.needed = needed
        peak = max((p["evidence"] for p in course), default=1.0)
        self.decades = max(1.0, math.log10(max(needed * 1.5, min(peak, needed * 100))))

    def x(self, t: float) -> float:
        span = self.last - self.first
        return LEFT + _PLOT * (min(max(t, self.first), self.last) - self.first) / span if span > 0 else float(LEFT)

    def y(self, evidence: float) -> float:
        bottom = _TOP + _WEIGHT + _COUNTS + _EVIDENCE + 2 * _GAP
        level = min(math.log10(max(evidence, 1.0)) / self.decades, 1.0)
        return bottom - _EVIDENCE * level


def _title(doc: Mapping[str, Any]) -> str:
    place = f"{doc.get('service')}/{doc.get('environment')}"
    return f"{place}, rollout {doc.get('rollout')}: {doc.get('outcome') or doc.get('state')}"


def _head(doc: Mapping[str, Any]) -> list[str]:
    reason = _cut(str(doc.get("reason") or ""), 118)
    return [_text(LEFT, 26, _title(doc), "ink title"), _text(LEFT, 44, reason, "soft small")]


def _told(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The events that have a mark and a line of their own: the last ones, where there are many."""
    chosen = [e for e in events if e["what"] != "state"] if len(events) > MOST_TOLD else list(events)
    return chosen[-MOST_TOLD:]


def _line(number: int, event: Mapping[str, Any]) -> str:
    return _cut(f"{number + 1} · {clock(event['t'])} · {event['text']}", 116)


def _marks(told: Sequence[Mapping[str, Any]], scale: _Scale, end: float) -> list[str]:
    """A thin line for each event, with its number above; numbers that would touch are left out."""
    parts, free = [], 0.0
    for number, event in enumerate(told):
        x = scale.x(event["t"])
        parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 4}" y2="{end - _GAP}"/>')
        if x >= free:
            parts.append(_text(x, _TOP - 7, str(number + 1), "soft small", "middle"))
            free = x + 14
    return parts


def _weights(course: Sequence[Mapping[str, Any]], scale: _Scale) -> list[str]:
    """The candidate's share over time, as steps; where the brake or a fault held it the paper is tinted."""
    bottom = _TOP + _WEIGHT
    top = max(*(p["weight"] for p in course), 0.01)
    steps = [f"M{scale.x(course[0]['t']):.1f} {bottom}"]
    for point in course:
        y = bottom - (_WEIGHT - 8) * point["weight"] / top
        steps.append(f"H{scale.x(point['t']):.1f}V{y:.1f}")
    path = "".join(steps)
    held = [
        f'<rect class="held" x="{scale.x(a["t"]):.1f}" width="{max(scale.x(b["t"]) - scale.x(a["t"]), 1):.1f}" '
        f'y="{_TOP}" height="{_WEIGHT}"/>'
        for a, b in zip(course, [*course[1:], course[-1]], strict=True)
        if a["brake"] or a["fault"]
    ]
    area = f'<path class="area" d="{path}V{bottom}Z" style="stroke:none"/>'
    axis = [_grid(bottom), _text(LEFT - 8, _TOP + 12, texts.percent(top), "soft small", "end")]
    name = "candidate's share; tinted: held by the brake" if held else "candidate's share"
    return [
        *held,
        *axis,
        area,
        f'<path class="candidate" d="{path}"/>',
        _text(LEFT + 6, bottom - 6, name, "soft small"),
    ]


def _counts(course: Sequence[Mapping[str, Any]], scale: _Scale) -> list[str]:
    """Failures of both cohorts so far, and in words their requests."""
    top = _TOP + _WEIGHT + _GAP
    bottom, most = top + _COUNTS, max(1, *(p[c]["errors"] for p in course for c in ("stable", "candidate")))
    parts = [_grid(bottom), _text(LEFT - 8, top + 14, texts.number(most), "soft small", "end")]
    for index, cohort in enumerate(("stable", "candidate")):
        places = [(scale.x(p["t"]), bottom - (_COUNTS - 34) * p[cohort]["errors"] / most) for p in course]
        parts.append(f'<path class="{cohort} main" d="{_path(places)}"/>')
        total = course[-1][cohort]
        said = f"{cohort}: {texts.number(total['errors'])} failures of {texts.number(total['total'])} requests"
        x = LEFT + 4 + 330 * index
        parts += [f'<line class="{cohort} main" x1="{x}" x2="{x + 18}" y1="{top + 6}" y2="{top + 6}"/>']
        parts.append(_text(x + 24, top + 10, said, "soft small"))
    return parts


def _evidence(course: Sequence[Mapping[str, Any]], scale: _Scale) -> list[str]:
    """Evidence by its logarithm, with what takes the candidate back as a dashed line."""
    top, limit = scale.y(1e308), scale.y(scale.needed)
    parts = [_text(LEFT - 8, scale.y(10.0**d) + 4, f"{10**d:,}", "soft small", "end") for d in _decades(scale)]
    parts += [_grid(scale.y(10.0**d)) for d in _decades(scale)]
    parts.append(
        f'<line class="bad" stroke-dasharray="6 4" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{limit:.1f}" y2="{limit:.1f}"/>'
    )
    parts.append(_text(LEFT + 6, limit - 5, f"{texts.number(scale.needed)} takes it back", "badtext small"))
    lines = [("evidence", "all together", [(p["t"], p["evidence"]) for p in course], "none")]
    for shade, dash, name in zip(_COLOURS, _DASHES, worst_metrics(course), strict=False):
        places = [(p["t"], p["metrics"][name]) for p in course if name in p["metrics"]]
        lines.append((shade, name, places, dash))
    for index, (shade, name, values, dash) in reversed(list(enumerate(lines))):
        path = _path([(scale.x(t), scale.y(e)) for t, e in values])
        width = " main" if not index else ""
        parts.append(f'<path class="{shade}{width}" stroke-dasharray="{dash}" d="{path}"/>')
        x = LEFT + 4 + 172 * index
        parts.append(_key(x, top - 14, f"{shade}{width}", dash))
        parts.append(_text(x + 24, top - 10, _cut(f"evidence, {name}" if not index else name, 24), "soft small"))
    return parts


def _key(x: float, y: float, kind: str, dash: str) -> str:
    return f'<line class="{kind}" stroke-dasharray="{dash}" x1="{x}" x2="{x + 18}" y1="{y:.1f}" y2="{y:.1f}"/>'


def worst_metrics(course: Sequence[Mapping[str, Any]], most: int = MOST_METRICS) -> list[str]:
    """The metrics whose own evidence was largest at any time, that one first; those that never had any are left out."""
    peaks: dict[str, float] = {}
    for point in course:
        for name, value in point["metrics"].items():
            peaks[name] = max(peaks.get(name, 0.0), value)
    return [name for name in sorted(peaks, key=lambda n: (-peaks[n], n)) if peaks[name] > 1.0][:most]


def _decades(scale: _Scale) -> range:
    return range(0, math.floor(scale.decades) + 1)


def _seconds(scale: _Scale, end: float) -> list[str]:
    """The axis of time: where it begins, its middle and its end."""
    y = end - _GAP + 16
    middle = (scale.first + scale.last) / 2
    places = ((scale.first, "start"), (middle, "middle"), (scale.last, "end"))
    return [_text(scale.x(t), y, clock(t), "soft small", anchor) for t, anchor in places]


def clock(t: float) -> str:
    """Seconds since the first judged request, as people read them.

    >>> clock(3.25), clock(75.0), clock(3723.0), clock(-0.2), clock(-0.04)
    ('3.2 s', '1:15 min', '1:02:03 h', '-0.2 s', '0.0 s')
    """
    if t < 60:
        return f"{round(t, 1) + 0.0:.1f} s"
    whole = round(t)
    minutes, seconds = divmod(whole, 60)
    if whole < 3600:
        return f"{minutes}:{seconds:02} min"
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02} h"


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places) if places else ""


def _grid(y: float) -> str:
    return f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'


def _text(x: float, y: float, said: str, kind: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(_printable(said))}</text>'


def _printable(said: str) -> str:
    """Without what XML does not allow, whatever a service calls its endpoints."""
    return "".join(c if c.isprintable() else " " for c in said)


def _cut(said: str, most: int) -> str:
    return said if len(said) <= most else said[: most - 1] + "…"
