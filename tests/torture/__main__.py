"""`python -m tests.torture`: kill, stop, fill, freeze and reboot a real service under load; see what users notice.

Exit code 0 when everything holds.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Mapping
from functools import partial

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


def _tell(text: str) -> None:
    print(f"  {text}", flush=True)


def _try(name: str, scenario: Callable[[], Findings]) -> bool:
    try:
        findings = scenario()
    except Skip as reason:
        print(f"{name}: SKIPPED: {reason}", flush=True)
        return True
    except Exception as error:
        traceback.print_exc()
        findings = Findings(name, violations=[f"{type(error).__name__}: {error}"])
    print(findings.line(), flush=True)
    for sentence in findings.violations:
        _tell(f"VIOLATION: {sentence}")
    return not findings.violations


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="how often the agent is killed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3600.0, help="end the kills after this long in any case")
    parser.add_argument("--only", action="append", default=[], choices=[*KILLS, *SCENARIOS], help="may be repeated")
    chosen = parser.parse_args()
    wanted = chosen.only or [*KILLS, *SCENARIOS]
    good = True
    for name, (run, part) in KILLS.items():
        if name in wanted:
            count = max(1, chosen.kills // part)
            good &= _try(name, partial(run, count, chosen.seed, seconds=chosen.seconds, say=_tell))
    for name, scenario in SCENARIOS.items():
        if name in wanted:
            good &= _try(name, scenario)
    print("everything holds" if good else "something does not hold", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
