"""The shortest history that still fails: drop happenings, in halves, then one by one, then drop steps and engines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from rebake.testing.simulation.run import simulate
from rebake.testing.simulation.scenario import Scenario

MOST_RUNS = 400


def _fails(scenario: Scenario) -> bool:
    return bool(simulate(scenario).violations)


def shrink(scenario: Scenario, fails: Callable[[Scenario], bool] = _fails, most_runs: int = MOST_RUNS) -> Scenario:
    """A smaller scenario that fails too; the scenario itself if none is found.

    Source: Zeller, Hildebrandt 2002, "Simplifying and isolating failure-inducing input" (ddmin, complements only).
    """
    runs = 0

    def still(candidate: Scenario) -> bool:
        nonlocal runs
        runs += 1
        return runs <= most_runs and fails(candidate)

    if scenario.engines > 1 and still(replace(scenario, engines=1)):
        scenario = replace(scenario, engines=1)
    size = max(1, len(scenario.happenings) // 2)
    while size:
        start = 0
        while start < len(scenario.happenings):
            smaller = scenario.without(frozenset(range(start, start + size)))
            if still(smaller):
                scenario = smaller
            else:
                start += size
        size //= 2
    low = max((h.step for h in scenario.happenings), default=0) + 1
    for steps in range(low, scenario.steps, max(1, (scenario.steps - low) // 8)):
        if still(replace(scenario, steps=steps)):
            return replace(scenario, steps=steps)
    return scenario


def as_test(scenario: Scenario, violation: str) -> str:
    """A test to paste into tests/simulation/test_seeds.py."""
    lines = "\n".join(f"                {happening!r}," for happening in scenario.happenings)
    return (
        f"def test_seed_{scenario.seed}_stays_fixed() -> None:\n"
        f'    """{violation}"""\n'
        f"    scenario = Scenario(\n"
        f"        seed={scenario.seed},\n        steps={scenario.steps},\n        engines={scenario.engines},\n"
        f"        happenings=(\n{lines}\n        ),\n    )\n"
        f"    assert simulate(scenario).violations == []\n"
    ).replace("                Happening", "            Happening")
