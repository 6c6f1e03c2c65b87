"""`python -m rebake.testing.simulation --seeds FIRST+COUNT [--workers N]`: exit 0 when each seed keeps each promise."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

from rebake.testing.simulation.run import Outcome, simulate
from rebake.testing.simulation.scenario import draw
from rebake.testing.simulation.shrink import as_test, shrink

CHUNK = 25


def _seeds(text: str) -> range:
    first, _, count = text.partition("+")
    return range(int(first), int(first) + int(count or 1))


def _run(seeds: Sequence[int]) -> list[Outcome]:
    return [simulate(draw(seed)) for seed in seeds]


def _outcomes(seeds: range, workers: int) -> Iterator[Outcome]:
    chunks = [seeds[n : n + CHUNK] for n in range(0, len(seeds), CHUNK)]
    if workers == 1:
        for chunk in chunks:
            yield from _run(chunk)
        return
    with ProcessPoolExecutor(workers) as pool:
        for outcomes in pool.map(_run, chunks):
            yield from outcomes


def explain(seed: int) -> str:
    """The shortest failing history of a seed, and the test to keep."""
    small = shrink(draw(seed))
    outcome = simulate(small)
    violation = outcome.violations[0] if outcome.violations else "it does not fail any more"
    history = "\n".join(outcome.history)
    return f"seed {seed}: promise {violation}\n\n{history}\n\n{as_test(small, violation)}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m rebake.testing.simulation", description=__doc__)
    parser.add_argument("--seeds", type=_seeds, default=_seeds("1+1000"), metavar="FIRST+COUNT")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument(
        "--explain", type=int, default=1, metavar="N", help="shrink and print the first N failing seeds"
    )
    options = parser.parse_args(arguments)
    began, rollouts, ticks, endings, failed = time.perf_counter(), 0, 0, Counter[str](), list[Outcome]()
    for outcome in _outcomes(options.seeds, options.workers):
        rollouts, ticks = rollouts + outcome.rollouts, ticks + outcome.ticks
        endings.update(outcome.endings)
        if outcome.violations:
            failed.append(outcome)
    seconds = time.perf_counter() - began
    for outcome in failed[: options.explain]:
        print(explain(outcome.scenario.seed))
    for outcome in failed[:50]:
        print(f"FAILED seed {outcome.scenario.seed}: promise {outcome.violations[0]}")
    print(f"{len(options.seeds)} seeds, {rollouts} rollouts ended ({dict(endings)}), {ticks} ticks in {seconds:.1f} s")
    print(f"{rollouts / seconds * 60:,.0f} rollouts a minute; {len(failed)} seeds failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
