"""The live view of a rollout on a terminal. `picture` is pure; `Live` moves it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live as RichLive
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from rebake.cli.words import (
    View,
    asks,
    counted,
    evidence_line,
    hindrance,
    metric_lines,
    percent,
    seconds,
    short,
    step_of,
)

_BAR = 40
_MARKS = {"passed": ("✓", "green"), "failed": ("✗", "red")}


def bar(stable: float, candidate: float, width: int = _BAR) -> Text:
    """The route as a bar. A candidate that gets anything is seen."""
    cells = round(candidate * width)
    if candidate > 0:
        cells = max(1, cells)
    rest = width - cells if stable > 0 else 0
    text = Text("━" * rest, style="blue") + Text("━" * cells, style="yellow")
    return text + Text("─" * (width - rest - cells), style="dim")


def _cohorts(view: View) -> Table:
    table = Table.grid(padding=(0, 2))
    for cohort, shade in (("stable", "blue"), ("candidate", "yellow")):
        total, errors = counted(view, cohort)
        health = (view.get("instances") or {}).get(cohort) or {"wanted": 0, "healthy": 0}
        share = (view.get("route") or {}).get(cohort) or 0.0
        table.add_row(
            Text(cohort, style=shade),
            Text(percent(share)),
            Text(f"{health['healthy']} of {health['wanted']} healthy" if health["wanted"] else ""),
            Text(total),
            Text(errors, style="" if errors.startswith("0 ") else "red"),
        )
    return table


def _checks(view: View) -> Text:
    text = Text()
    for check in view.get("checks", ()):
        mark, shade = _MARKS.get(check["state"], ("·", "dim"))
        text.append(f"{mark} {check['name']}  ", style=shade)
    return text


def _judge(view: View) -> list[RenderableType]:
    line = evidence_line(view, width=_BAR)
    if line is None:
        return []
    spark, numbers = line
    shown = Text.assemble((spark, "magenta"), (f" {numbers}", "dim"))
    return [shown, *(Text(f"  {text}", style="dim") for text in metric_lines(view["verdict"]))]


def picture(view: View, phases: Sequence[tuple[str, float]], elapsed: float) -> RenderableType:
    """The whole view.

    Args:
        phases: what is behind us, with the second at which each ended.
        elapsed: seconds since the start.
    """
    title = Text()
    title.append(f"{view['service']}/{view['environment']}", style="bold")
    title.append(f"  revision {short(view['revision'])}  {seconds(elapsed)}", style="dim")
    past = [Text.assemble((f"✓ {name}", "green"), (f"  {seconds(at)}", "dim")) for name, at in phases[-6:]]
    parts: list[RenderableType] = [title, *past]
    parts.append(Spinner("dots", Text(f"{step_of(view)}: {view.get('reason') or ''}"), style="cyan"))
    if question := asks(view):
        parts.append(Text(f"  {question}", style="bold yellow"))
    if stuck := hindrance(view):
        parts.append(Text(f"  {stuck}", style="bold red"))
    route = view.get("route") or {}
    parts += [bar(route.get("stable") or 0.0, route.get("candidate") or 0.0), _cohorts(view)]
    if view.get("checks"):
        parts.append(_checks(view))
    parts += _judge(view)
    parts += [Text(f"  {line}", style="dim") for line in (view.get("log_tail") or [])[-6:]]
    return Group(*parts)


class Live:
    """Shows each view as it comes, and between them the time that passes."""

    def __init__(self) -> None:
        self._view: View | None = None
        self._seen_at = 0.0
        self._phases: list[tuple[str, float]] = []
        self._live = RichLive(
            console=Console(highlight=False), refresh_per_second=8, transient=True, get_renderable=self._now
        )

    def __enter__(self) -> Live:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def show(self, view: View) -> None:
        if self._view is not None and self._view["state"] != view["state"]:
            self._phases.append((str(self._view["state"]), float(view["seconds"])))
        self._view, self._seen_at = view, time.monotonic()

    def _now(self) -> RenderableType:
        if self._view is None:
            return Text("")
        elapsed = float(self._view["seconds"]) + (time.monotonic() - self._seen_at)
        return picture(self._view, self._phases, elapsed)
