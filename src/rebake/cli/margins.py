"""Other settings of the judge, as they are typed or as a file says them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from rebake.core.units import FULL, parse_share
from rebake.errors import UsageError
from rebake.judge.samples import JudgeSettings


class Share(click.ParamType[float]):
    """A share such as `5%` or `0.1%`, as a fraction."""

    name = "share"

    def __init__(self, least: str = "0%", most: str = "100%") -> None:
        self._bounds = parse_share(least), parse_share(most)
        self._expected = f"a share from {least} to {most}, such as {least if least != '0%' else '5%'}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            points = parse_share(str(value))
        except ValueError:
            self.fail(f"expected {self._expected}, found {value!r}", param, ctx)
        if not self._bounds[0] <= points <= self._bounds[1]:
            self.fail(f"expected {self._expected}, found {value!r}", param, ctx)
        return points / FULL


_OPTIONS: tuple[tuple[str, Any, str], ...] = (
    ("--false-rollbacks", Share("0.01%", "20%"), "As judge.false_rollbacks."),
    ("--error-ratio", click.FloatRange(1, 10), "As judge.errors.ratio."),
    ("--error-extra", Share("0%", "50%"), "As judge.errors.extra."),
    ("--p50", Share(), "As judge.latency.p50."),
    ("--p90", Share(), "As judge.latency.p90."),
    ("--p99", Share(), "As judge.latency.p99."),
    ("--min-requests", click.IntRange(1, 1_000_000), "As judge.min_requests."),
)


def settings_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for name, kind, text in reversed(_OPTIONS):
        function = click.option(name, type=kind, default=None, help=text)(function)
    return function


def changed(settings: JudgeSettings, typed: Mapping[str, Any]) -> JudgeSettings:
    """The settings with what was typed instead."""
    direct = ("false_rollbacks", "error_ratio", "error_extra", "min_requests")
    parts = {name: typed[name] for name in direct if typed.get(name) is not None}
    latency = {name: typed[name] for name in ("p50", "p90", "p99") if typed.get(name) is not None}
    return replace(settings, **parts, latency={**settings.latency, **latency})


def in_file(path: Path, environment: str | None) -> JudgeSettings:
    """The settings of a file's `judge:` block: of a whole rebake.yaml that of the environment, else the only one.

    Raises: UsageError `file-unreadable`, `judge-not-understood`, `which-environment`.
    """
    import yaml
    from pydantic import ValidationError

    from rebake.rollout.margins import margins_of
    from rebake.spec import model
    from rebake.spec.plan import judge_rules

    try:
        doc = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError("file-unreadable", f"cannot read: {error.strerror}", where=str(path)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _not_understood(path, str(error)) from error
    block = _block(path, doc, environment)
    try:
        rules = judge_rules(model.Judge.model_validate(block), path.parent)
    except ValidationError as error:
        found = "; ".join(f"judge.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise _not_understood(path, found) from error
    return margins_of(rules)


def _block(path: Path, doc: Any, environment: str | None) -> Any:
    if not isinstance(doc, Mapping):
        raise _not_understood(path, "expected a judge: block, found none")
    if "judge" in doc:
        return doc["judge"]
    known = doc.get("environments")
    known = known if isinstance(known, Mapping) else {}
    blocks = {name: e.get("judge") or {} for name, e in known.items() if isinstance(e, Mapping)}
    if environment in blocks:
        return blocks[environment]
    if len(blocks) == 1:
        return next(iter(blocks.values()))
    raise _not_understood(
        path, f"expected judge:, or the environment {environment}; found {', '.join(blocks) or 'none'}"
    )


def _not_understood(path: Path, problem: str) -> UsageError:
    return UsageError(
        "judge-not-understood",
        problem,
        where=str(path),
        remedy="judge: {false_rollbacks: 1%, errors: {ratio: 1.1, extra: 0.1%}, latency: {p99: 20%}}",
    )
