"""A scheduled job's promises: each slot is run once at most, no run is cut off, none begins beside another unless the
file allows it, and the candidate's only with a share. Told by what is written and what truly runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rebake.core.units import FULL
from rebake.platforms.model import InstanceSpec
from rebake.testing.simulation.world import Reality

MISSED_SECONDS = 30.0
"""A slot that is found so late was missed, says the manual."""
UNLIKELY = 1e-6
"""What happens less often than this by chance did not happen by chance."""


class Running:
    """Follows one job's runs."""

    def __init__(self, reality: Reality, fail: Callable[[str, str], None]) -> None:
        self.reality = reality
        self.fail = fail
        self.slots: dict[float, str] = {}
        self.open: dict[str, Mapping[str, Any]] = {}
        self.known: set[str] = set()
        self.over: set[str] = set()
        self.lots = [1.0]
        self.drawn = 0

    def written(self, doc: Mapping[str, Any]) -> None:
        """What the ledger holds of runs after a commit."""
        runs = doc.get("runs") or ()
        for run in runs:
            first = self.slots.setdefault(run["slot"], run["instance"])
            if first != run["instance"]:
                self.fail("9", f"the slot {run['slot']:.0f} is run by {run['instance']}, and was by {first}")
            if run["instance"] not in self.known:
                self.known.add(run["instance"])
                self._drawn(run, doc)
        for run in runs:
            if run["ended"] is not None and run["instance"] in self.open:
                self.over.add(run["instance"])
                self._ended(run)
            elif run["ended"] is None and run["instance"] in self.over:
                self.fail("9", f"{run['instance']} was over, and is under way again")
        self.open = {run["instance"]: run for run in runs if run["ended"] is None}

    def _drawn(self, run: Mapping[str, Any], doc: Mapping[str, Any]) -> None:
        rollout, candidate = doc.get("rollout"), doc.get("candidate")
        mine = candidate is not None and candidate["id"] == run["fleet"]
        if mine and not run["share"]:
            self.fail("3", f"{run['instance']} is a run of a candidate without a share of them")
        if mine and (rollout is None or run["share"] > FULL):
            self.fail("10", f"{run['instance']} was drawn with a share of {run['share']}")
        if 0 < run["share"] < FULL:
            self._drew(run["share"] / FULL, candidate=mine)
        plan = next((doc[c]["plan"] for c in ("stable", "candidate") if doc.get(c)), None)
        if plan is None:
            return
        if plan["schedule"]["missed"] == "skip" and run["began"] - run["slot"] >= MISSED_SECONDS:
            late = run["began"] - run["slot"]
            self.fail("9", f"{run['instance']} was begun {late:.0f}s late, and the file says to leave such a slot out")
        if plan["schedule"]["overlap"] == "allow":
            return
        for name in self.open.keys() & {r["instance"] for r in doc["runs"] if r["ended"] is None}:
            process = self.reality.platform.processes.get(name)
            if process is not None and process.exit is None:
                self.fail("6", f"{run['instance']} was begun beside {name}, which still runs")

    def _drew(self, share: float, *, candidate: bool) -> None:
        """Whether the candidates of this seed had about their share of the runs: by the exact distribution of how many
        they would have had by lot."""
        pairs = zip([*self.lots, 0.0], [0.0, *self.lots], strict=True)
        self.lots = [stays * (1.0 - share) + comes * share for stays, comes in pairs]
        self.drawn += candidate
        if min(sum(self.lots[self.drawn :]), sum(self.lots[: self.drawn + 1])) < UNLIKELY:
            self.fail(
                "10", f"candidates had {self.drawn} of {len(self.lots) - 1} runs: no lot with their share does that"
            )

    def _ended(self, run: Mapping[str, Any]) -> None:
        """What is written of a run's end is how it ended."""
        process = self.reality.platform.processes.get(run["instance"])
        how = None if process is None else process.exit
        if run["outcome"] == "done" and process is not None and how != "exit 0":
            self.fail("10", f"{run['instance']} is called done, and ended: {how or 'it still runs'}")

    def begins(self, spec: InstanceSpec) -> None:
        """An instance is asked for."""
        if spec.id not in self.open:
            self.fail("9", f"{spec.id} was launched, and no run of it is under way")

    def told_to_finish(self, instance: str, *, stable: bool) -> None:
        """A run of the fleet in service is ended by itself, or by its time limit."""
        if stable and instance in self.open:
            self.fail("4", f"{instance}, a run of stable, was told to finish in the middle of it")
