"""SIGKILL to the agent at random instants, over rollouts, undos and stops, while users send requests.

Real agents, real Envoy, real processes. The seed chooses what people ask for and how long after an agent's start it is
killed; the machine's own timing does the rest. What must hold:
- no request is lost, and none is answered by the edge in the service's place;
- every rollout ends as the table and the release deserve;
- nothing is left that no view accounts for: processes, folders, Envoy's clusters, leases;
- the ledger is whole, and tells a story that the table allows.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from rebake.rollout.commands import undo_target
from tests.torture.audit import broken_rules, endings
from tests.torture.ground import Findings, Ground, cleared, unserved, was_interrupted

AT_ONCE = "    strategy: all-at-once\n    soak: 0s\n"
QUICK = "    strategy: blue-green\n    soak: 1s\n"
STEPS = "    strategy: {canary: {steps: [20%, 50%], hold: 300ms}}\n    soak: 1s\n"
JUDGED = "    strategy: {canary: {steps: [50%], hold: 10m}}\n    soak: 1s\n"
HELD = "    strategy: {canary: {steps: [10%], hold: 10m}}\n    soak: 10m\n"
SMOKE = "checks:\n  - {name: smoke, http: {path: /, expect_body: never}}\n"

SETTLE_SECONDS = 600.0
"""Nothing hangs for ever. How fast it goes is not asked here: the agent is killed all the time."""
MISTAKES = 10
"""So many sentences about what does not hold are enough."""


class Killer(threading.Thread):
    """Ends the agent again and again: mostly after a while, sometimes as soon as it has begun to live.

    How long that is, is measured on this machine: an agent that is always killed before it can do anything shows
    nothing.
    """

    def __init__(self, site: Ground, wanted: int, seed: int) -> None:
        super().__init__(name="killer", daemon=True)
        self.site, self.wanted, self.chance = site, wanted, random.Random(seed)
        self.kills = 0
        self.pauses: list[float] = []
        self.troubles: list[str] = []
        self._over = threading.Event()

    def run(self) -> None:
        self._start_anew()
        while self.kills < self.wanted and len(self.troubles) < MISTAKES and not self._over.wait(self._pause()):
            try:
                if self.site.kill_holder():
                    self.kills += 1
                    self._revive()
            except Exception as error:
                self.troubles.append(f"after {self.kills} kills: {type(error).__name__}: {error}")

    def stop(self) -> None:
        self._over.set()
        self.join()

    @property
    def start_seconds(self) -> float:
        """How long an agent takes to start here and now."""
        latest = sorted(self.pauses[-9:])
        return max(0.6, latest[len(latest) // 2]) if latest else 0.6

    def _pause(self) -> float:
        if self.chance.random() < 0.3:
            return self.chance.uniform(0.05, self.start_seconds)
        return self.start_seconds + self.chance.uniform(0.0, 3.0)

    def _start_anew(self) -> None:
        """An end that nobody counts, to learn how long a start takes."""
        self.site.rebake("agent", "stop")
        self._start()

    def _revive(self) -> None:
        """Half of the time at once; else whoever types the next command does it."""
        if self.chance.random() < 0.5:
            self._start()

    def _start(self) -> None:
        began = time.monotonic()
        if self.site.rebake("agent", "start").code == 0:
            self.pauses.append(time.monotonic() - began)


@dataclass
class Course:
    """A day of a team: one thing after the other is asked for, and its end is known beforehand."""

    site: Ground
    chance: random.Random
    seen: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    number: int = 0
    releases: int = 0
    outcomes: frozenset[str] = frozenset()

    def first(self) -> None:
        self.site.source("v0")
        self.site.describe(AT_ONCE)
        done = self.site.deploy()
        assert done.code == 0, done.err

    def episode(self) -> None:
        """One thing people do, to its end."""
        self.number += 1
        episodes = self.episodes()
        ordered = self.number <= len(episodes)
        chosen = episodes[self.number - 1] if ordered else self.chance.choice(episodes)
        self.seen[chosen.__name__] += 1
        before = set(endings(self.site.entries()))
        chosen()
        self._settle(chosen.__name__, before)

    # What people do

    def episodes(self) -> Sequence[Callable[[], None]]:
        """Each once in this order, then by chance."""
        return (
            *(self.good, self.stopped, self.fails, self.back, self.steps),
            *(self.crash, self.unchecked, self.undone, self.superseded),
        )

    def good(self) -> None:
        self._release(QUICK)
        self._expect("promoted")

    def steps(self) -> None:
        self._release(STEPS)
        self._expect("promoted")

    def crash(self) -> None:
        self._release(QUICK, crash=True)
        self._expect("rolled-back")

    def fails(self) -> None:
        self._release(JUDGED, fail_every=2)
        self._expect("rolled-back")

    def unchecked(self) -> None:
        self._release(QUICK, before=SMOKE)
        self._expect("rolled-back")

    def stopped(self) -> None:
        self._release(HELD)
        time.sleep(self.chance.uniform(0.0, 2.5))
        self._ask("stop", "production")
        self._expect("stopped")

    def undone(self) -> None:
        """Undo in the middle of a rollout."""
        self._release(HELD)
        time.sleep(self.chance.uniform(0.0, 2.5))
        self._undo()
        self._expect("stopped", "rolled-back")

    def superseded(self) -> None:
        self._release(HELD)
        time.sleep(self.chance.uniform(0.0, 2.5))
        self._release(QUICK)
        self._expect("stopped", "promoted")

    def back(self) -> None:
        """Undo with nothing under way: the previous revision is raised again."""
        if undo_target(self.site.remembered(), self.site.quarantined()) is None:
            return self.good()
        self._undo()
        return self._expect("promoted")

    # How they do it

    def _release(self, how: str, *, before: str = "", crash: bool = False, fail_every: int = 0) -> None:
        self.releases += 1
        self.site.source(f"v{self.releases}", crash=crash, fail_every=fail_every)
        self.site.describe(how)
        path = self.site.folder / "rebake.yaml"
        path.write_text(before + path.read_text())
        self._ask("deploy", "production", "--detach", "--json", also=(3, 4))

    def _ask(self, *words: str, also: tuple[int, ...] = ()) -> None:
        done = self.site.insist(*words)
        if done.code not in (0, *also):
            self.wrong.append(f"{self.number}: {' '.join(words)} ended with {done.code}: {done.err[-600:]}")

    def _undo(self) -> None:
        """A second undo would go one further back."""
        self._once("undo", "undo", "production")

    def _once(self, verb: str, *words: str) -> None:
        """A command that is typed again only if the ledger does not know of it."""
        asked = self._requests(verb)
        while True:
            done = self.site.rebake(*words)
            if done.code == 0 or self._requests(verb) > asked:
                return
            if not was_interrupted(done):
                self.wrong.append(f"{self.number}: {' '.join(words)} ended with {done.code}: {done.err[-600:]}")
                return

    def _requests(self, verb: str) -> int:
        return sum(e.kind == "request" and e.body.get("verb") == verb for e in self.site.entries())

    def _expect(self, *outcomes: str) -> None:
        self.outcomes = frozenset(outcomes)

    # What is demanded

    def _settle(self, what: str, before: set[str]) -> None:
        began = time.monotonic()
        while not self.site.settled():
            if time.monotonic() - began > SETTLE_SECONDS:
                self.wrong.append(f"{self.number} {what}: not settled after {SETTLE_SECONDS:g}s: {self.site.brief()}")
                self._ask("stop", "production")
                break
            time.sleep(0.1)
            if self.site.holder is None:
                self.site.rebake("agent", "start")
        found = {rollout: state for rollout, state in endings(self.site.entries()).items() if rollout not in before}
        if not found or {str(state) for state in found.values()} - self.outcomes:
            self.wrong.append(f"{self.number} {what}: expected {sorted(self.outcomes)}, found {found}")
        self.wrong += [f"{self.number} {what}: {sentence}" for sentence in self.demanded()]

    def demanded(self) -> Sequence[str]:
        """What else does not hold after an episode."""
        return ()


def run(kills: int, seed: int, *, seconds: float = inf, say: Callable[[str], None] = lambda _text: None) -> Findings:
    """Kill the agent of a service over rollouts, undos and stops. See `torment`."""
    return torment("kills of the agent", Ground, Course, kills, seed, seconds=seconds, say=say)


def torment(
    name: str,
    make: Callable[[Path], Ground],
    course_of: Callable[[Any, random.Random], Course],
    kills: int,
    seed: int,
    *,
    seconds: float = inf,
    say: Callable[[str], None] = lambda _text: None,
) -> Findings:
    """Kill until it was done `kills` times, episode after episode.

    Args:
        seconds: an end in any case; the kills that were not reached by then are a violation.
        say: told a line after each episode.
    """
    findings = Findings(name)
    began = time.monotonic()
    with cleared(make) as site:
        course = course_of(site, random.Random(seed))
        course.first()
        with ExitStack() as stack:
            crowd = [stack.enter_context(load) for load in site.crowd()]
            killer = Killer(site, kills, seed)
            killer.start()
            while killer.is_alive() and time.monotonic() - began < seconds and len(course.wrong) < MISTAKES:
                course.episode()
                so_far = [load.report() for load in crowd]
                sent, lost = sum(r.sent for r in so_far), sum(map(unserved, so_far))
                say(f"{course.number} episodes, {killer.kills} kills, {sent} sent, {lost} lost")
                for sentence in course.wrong[-1:]:
                    say(sentence)
            killer.stop()
            findings.violations += [*course.wrong, *killer.troubles, *site.calm()]
            reports = [load.stop() for load in crowd]
        entries, lost = site.entries(), sum(map(unserved, reports))
        ended = endings(entries)
        findings.figures = {
            "kills": f"{killer.kills} of {kills}",
            "episodes": course.number,
            "rollouts": len(ended),
            "ended": dict(Counter(map(str, ended.values()))),
            "requests": sum(report.sent for report in reports),
            "lost": lost,
            "ledger_entries": len(entries),
            "agent_back_s_median": round(sorted(killer.pauses or [0.0])[len(killer.pauses) // 2], 2),
            "agent_back_s_max": round(max(killer.pauses, default=0.0), 2),
            "p99_ms": round(max((report.latency_ms.get("p99", 0.0) for report in reports), default=0.0), 1),
            "seconds": round(time.monotonic() - began),
        }
        findings.demand(killer.kills >= kills, f"only {killer.kills} of {kills} kills were reached")
        told = [f"{report.reasons} {report.losses[:5]}" for report in reports]
        findings.demand(not lost, f"lost {lost}: {told}")
        findings.violations += [*broken_rules(entries), *site.swept()]
    return findings
