"""`python -m tests.torture`: kill, stop, fill, freeze and reboot a real service under load; see what users notice.

Exit code 0 when everything holds: every kill that was asked for was reached, and no scenario found a violation. A
scenario for which this machine lacks something is skipped, and said to be.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf

from tests.torture import jobs, kills, together, workers
from tests.torture.ground import Findings, Skip
from tests.torture.scenarios import SCENARIOS

KILLS: Mapping[str, tuple[Callable[..., Findings], int]] = {
    "kills": (kills.run, 1),
    "groups": (together.run, 4),
    "workers": (workers.run, 4),
    "jobs": (jobs.run, 4),
}
"""Whose agent is killed at random instants, and the part of the kills that it gets."""


@dataclass(frozen=True)
class Row:
    """One line of the closing table. `verdict`: held, BROKEN or skipped."""

    name: str
    verdict: str
    seconds: float
    kills: str = "-"
    requests: str = "-"
    lost: str = "-"


def _tell(text: str) -> None:
    print(f"  {text}", flush=True)


def _try(name: str, scenario: Callable[[], Findings]) -> Row:
    began = time.monotonic()
    try:
        findings = scenario()
    except Skip as reason:
        print(f"skipped: {name}: {reason}", flush=True)
        return Row(name, "skipped", time.monotonic() - began)
    except Exception as error:
        traceback.print_exc()
        findings = Findings(name, violations=[f"{type(error).__name__}: {error}"])
    print(findings.line(), flush=True)
    for sentence in findings.violations:
        _tell(f"VIOLATION: {sentence}")
    told = {column: str(findings.figures.get(column, "-")) for column in ("kills", "requests", "lost")}
    return Row(name, "BROKEN" if findings.violations else "held", time.monotonic() - began, **told)


def _close(rows: Sequence[Row]) -> int:
    """Print the table. Returns the exit code."""
    print(f"\n{'scenario':10} {'kills':>11} {'requests':>9} {'lost':>5} {'seconds':>8}  verdict")
    for row in rows:
        print(f"{row.name:10} {row.kills:>11} {row.requests:>9} {row.lost:>5} {row.seconds:8.0f}  {row.verdict}")
    broken = [row.name for row in rows if row.verdict == "BROKEN"]
    skipped = [row.name for row in rows if row.verdict == "skipped"]
    print(f"does not hold: {', '.join(broken)}" if broken else "everything that was tried holds", flush=True)
    if skipped:
        print(f"not tried: {', '.join(skipped)}", flush=True)
    return 1 if broken else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="how often the agent is killed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=inf, help="end the kills after this long, reached or not")
    parser.add_argument("--only", action="append", default=[], choices=[*KILLS, *SCENARIOS], help="may be repeated")
    chosen = parser.parse_args()
    wanted = chosen.only or [*KILLS, *SCENARIOS]
    rows = []
    for name, (run, part) in KILLS.items():
        if name in wanted:
            count = max(1, chosen.kills // part)
            rows.append(_try(name, partial(run, count, chosen.seed, seconds=chosen.seconds, say=_tell)))
    rows += [_try(name, scenario) for name, scenario in SCENARIOS.items() if name in wanted]
    return _close(rows)


if __name__ == "__main__":
    sys.exit(main())
