"""SIGKILL to the agent at random instants of release groups: two environments go on together, and go back together."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from math import inf
from typing import Any

from rebake.tour.load import Load, Request
from tests.e2e.pair import PLACES, SECOND, Pair
from tests.torture.audit import endings
from tests.torture.ground import TAG, TAGGED, Findings, Ground
from tests.torture.kills import Course, torment

STEPS = "{canary: {steps: [20%, 50%], hold: 300ms}}"
JUDGED = "{canary: {steps: [50%], hold: 10m}}"


class Together(Pair, Ground):  # type: ignore[misc]  # its releases are those of a pair
    """A ground with two environments, both under load."""

    server = TAGGED
    keys = tuple(f"shop/{name}" for name in PLACES)

    def crowd(self) -> Sequence[Load]:
        return [Load(f"http://127.0.0.1:{p}", 50.0, (Request("/"),), tag_header=TAG) for p in self.ports.values()]


class GroupCourse(Course):
    """What a team asks of a group; its end is the same for both members, but for the one that did harm."""

    site: Any
    reads: str = "v0"

    def first(self) -> None:
        self.site.begin()

    def episodes(self) -> Sequence[Callable[[], None]]:
        return self.good, self.one_fails, self.stopped, self.one_sours, self.back, self.ordered

    def good(self) -> None:
        self.reads = self._release_both(STEPS, "1s")
        self._expect("promoted")

    def ordered(self) -> None:
        self.reads = self._release_both(STEPS, "1s", order="ordered")
        self._expect("promoted")

    def one_fails(self) -> None:
        self._release_both(JUDGED, "1s", second_env="{FAIL_EVERY: '2'}")
        self._expect("rolled-back", "stopped")

    def one_sours(self) -> None:
        """Harm that begins in the soak of one."""
        self._release_both(STEPS, "10m", sours=True)
        deadline = time.monotonic() + 60.0
        while any(e.rollout is None or e.rollout.state != "soaking" for e in self.site.all_remembered()):
            if time.monotonic() > deadline:
                self.wrong.append(f"{self.number}: they do not soak: {self.site.brief()}")
                break
            time.sleep(0.1)
            if self.site.holder is None:
                self.site.rebake("agent", "start")
        self.site.sour(SECOND)
        self._expect("rolled-back", "stopped")

    def stopped(self) -> None:
        self._release_both(JUDGED, "10m")
        time.sleep(self.chance.uniform(0.0, 2.5))
        self._ask("stop", "--group", "all")
        self._expect("stopped")

    def back(self) -> None:
        """A group that was promoted is undone at a word."""
        before, ended = self.reads, set(endings(self.site.entries()))
        self.good()
        self._settle("good before undo", ended)
        self._once("undo", "undo", "--group", "all")
        self.reads = before
        self._expect("promoted")

    def _release_both(self, strategy: str, soak: str, *, sours: bool = False, **more: str) -> str:
        self.releases += 1
        text = f"v{self.releases}"
        for name in PLACES:
            (self.site.home / "data" / "shop" / name / "sour").unlink(missing_ok=True)
        self.site.source(text, sours=sours)
        self.site.describe_both(strategy, soak, **more)
        self._once("begin", "deploy", "--group", "all.yaml", "--detach", "--json")
        return text

    def demanded(self) -> Sequence[str]:
        texts = self.site.texts()
        return () if texts == [self.reads] * 2 else (f"users read {texts}, expected {self.reads} in both",)


def run(kills: int, seed: int, *, seconds: float = inf, say: Callable[[str], None] = lambda _text: None) -> Findings:
    """See `kills.torment`."""
    return torment("kills of the agent of a group", Together, GroupCourse, kills, seed, seconds=seconds, say=say)
