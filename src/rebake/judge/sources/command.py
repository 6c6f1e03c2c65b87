"""Metrics from a program of the user's: its exit code is a trial, or it prints a number."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping

from rebake.core.programs import Ended, run_program
from rebake.errors import Transient
from rebake.judge.metric_readings import CohortName, Side
from rebake.judge.metric_rules import CommandAsk
from rebake.judge.ports import Cohort, Question
from rebake.prometheus.asking import refused

NO_DATA = 75
"""Exit code by which a program says that it does not know. Source: sysexits(3), EX_TEMPFAIL."""
_NOT_RUN = (126, 127)
"""Exit codes by which shells say that a program could not be run."""


def told(question: Question, name: CohortName, cohort: Cohort) -> dict[str, str]:
    """What the program is told of one cohort."""
    urls = [f"http://{address}" for _, address in sorted(cohort.instances.items())]
    return {
        "REBAKE_COHORT": name,
        "REBAKE_URL": urls[0] if urls else "",
        "REBAKE_URLS": " ".join(urls),
        "REBAKE_INSTANCES": " ".join(sorted(cohort.instances)),
        "REBAKE_FLEET": cohort.fleet,
        "REBAKE_REVISION": cohort.revision,
        "REBAKE_RELEASE": cohort.release,
        "REBAKE_SERVICE": question.service,
        "REBAKE_ENVIRONMENT": question.environment,
    }


def side_of(wanted: CommandAsk, ended: Ended) -> Side:
    """What a program's end says of the cohort.

    Raises: Transient `metric-not-answered` when it says that it does not know, or did not end; Permanent
        `metric-refused` when it could not run or printed no number.
    """
    shown, tail = " ".join(wanted.command), _tail(ended)
    if ended.code is None:
        problem = f"{shown}: it did not end within {wanted.timeout_ms / 1000:g}s"
        raise Transient("metric-not-answered", problem, evidence=tail, retry_after_seconds=1.0)
    if ended.code == NO_DATA:
        raise Transient("metric-not-answered", f"{shown}: exit {NO_DATA}, no data", evidence=tail)
    if ended.code < 0 or ended.code in _NOT_RUN or (wanted.reads == "number" and ended.code):
        raise refused(f"{shown}: exit {ended.code}{f' ({tail[-1]})' if tail else ''}", "run it by hand")
    if wanted.reads == "exit-code":
        return Side(trials=(1.0, 1.0 if ended.code else 0.0))
    return Side(numbers={"": _number(shown, ended.output.decode("utf-8", "replace"))})


def _number(shown: str, output: str) -> float:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    try:
        value = float(lines[-1])
    except (IndexError, ValueError):
        found = repr(lines[-1][:60]) if lines else "nothing"
        problem = f"{shown}: expected a number as the last line it prints, found {found}"
        raise refused(problem, "let it print a number, or write reads: exit-code") from None
    if not math.isfinite(value):
        raise refused(f"{shown}: expected a number, found {lines[-1][:60]}", f"let it exit with {NO_DATA} for no data")
    return value


def _tail(ended: Ended) -> tuple[str, ...]:
    return tuple((ended.errors or ended.output).decode("utf-8", "replace").splitlines()[-10:])


class CommandSource:
    """`judge.ports.MetricSource` for `CommandAsk`: one run for each cohort, one after the other."""

    def read(self, question: Question) -> Mapping[CohortName, Side]:
        return {name: self._run(question, name, cohort) for name, cohort in question.cohorts.items()}

    @staticmethod
    def _run(question: Question, name: CohortName, cohort: Cohort) -> Side:
        wanted = question.rule.ask
        assert isinstance(wanted, CommandAsk)
        env = {**os.environ, **told(question, name, cohort)}
        try:
            ended = run_program(wanted.command, env, wanted.timeout_ms / 1000, cwd=wanted.cwd, apart=True)
        except OSError as error:
            shown = " ".join(wanted.command)
            raise refused(f"{shown}: {error.strerror}", "correct judge.metrics in rebake.yaml") from error
        return side_of(wanted, ended)
