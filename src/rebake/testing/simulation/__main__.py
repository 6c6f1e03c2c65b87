"""`python -m rebake.testing.simulation --seeds FIRST+COUNT [--workers N]`: exit 0 when each seed keeps each promise.

With `--rollouts N` it goes on with the seeds after FIRST until so many rollouts have ended.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import count as counting

from rebake.testing.simulation.run import Outcome, simulate
from rebake.testing.simulation.scenario import draw
from rebake.testing.simulation.shrink import as_test, shrink

CHUNK = 25
TELL_SECONDS = 10.0
"""How often it is said how far it is."""


def _seeds(text: str) -> range:
    first, _, count = text.partition("+")
    return range(int(first), int(first) + int(count or 1))


def _run(seeds: Sequence[int]) -> list[Outcome]:
    return [simulate(draw(seed)) for seed in seeds]


def _chunks(seeds: range, endless: bool) -> Iterator[range]:
    starts = counting(seeds.start, CHUNK) if endless else range(seeds.start, seeds.stop, CHUNK)
    for start in starts:
        yield range(start, start + CHUNK if endless else min(start + CHUNK, seeds.stop))


def _outcomes(chunks: Iterable[range], workers: int) -> Iterator[Outcome]:
    """What each seed showed, in order; no more chunks are begun than are waited for."""
    if workers == 1:
        for chunk in chunks:
            yield from _run(chunk)
        return
    with ProcessPoolExecutor(workers) as pool:
        begun: deque[Future[list[Outcome]]] = deque()
        for chunk in chunks:
            begun.append(pool.submit(_run, chunk))
            if len(begun) > 2 * workers:
                yield from begun.popleft().result()
        while begun:
            yield from begun.popleft().result()


@dataclass(slots=True)
class Total:
    """What all seeds together showed."""

    seeds: int = 0
    rollouts: int = 0
    ticks: int = 0
    endings: Counter[str] = field(default_factory=Counter)
    failed: list[Outcome] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        self.seeds += 1
        self.rollouts += outcome.rollouts
        self.ticks += outcome.ticks
        self.endings.update(outcome.endings)
        if outcome.violations:
            self.failed.append(outcome)


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
    parser.add_argument("--rollouts", type=int, default=0, metavar="N", help="go on until N rollouts have ended")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument(
        "--explain", type=int, default=1, metavar="N", help="shrink and print the first N failing seeds"
    )
    options = parser.parse_args(arguments)
    began, total = time.perf_counter(), Total()
    told = began
    for outcome in _outcomes(_chunks(options.seeds, options.rollouts > 0), options.workers):
        total.add(outcome)
        if time.perf_counter() - told > TELL_SECONDS:
            told = time.perf_counter()
            so_far = f"{total.seeds} seeds, {total.rollouts} rollouts so far; {len(total.failed)} seeds failed"
            print(so_far, file=sys.stderr, flush=True)
        if 0 < options.rollouts <= total.rollouts:
            break
    _tell(total, time.perf_counter() - began, options.explain)
    return 1 if total.failed else 0


def _tell(total: Total, seconds: float, explained: int) -> None:
    for outcome in total.failed[:explained]:
        print(explain(outcome.scenario.seed))
    for outcome in total.failed[:50]:
        print(f"FAILED seed {outcome.scenario.seed}: promise {outcome.violations[0]}")
    ends = ", ".join(f"{count} {ending}" for ending, count in total.endings.most_common())
    print(f"{total.seeds} seeds, {total.rollouts} rollouts ended ({ends}), {total.ticks} ticks in {seconds:.1f} s")
    print(f"{total.rollouts / seconds * 60:,.0f} rollouts a minute; {len(total.failed)} seeds failed")


if __name__ == "__main__":
    sys.exit(main())
