"""What must never happen, checked at every call, commit and step. It knows nothing of the engine but what it writes
and does, so that a mistake in the engine cannot hide itself.

The numbers are those of the promises in the design.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rebake.core.units import FULL
from rebake.ledger.ports import Draft, Fence, Put
from rebake.platforms.model import Instance, InstanceSpec
from rebake.release.manifest import Revision
from rebake.rollout.plan import Plan
from rebake.rollout.shares import instances_at
from rebake.rollout.states import STAYING, TABLE, Event, State
from rebake.rollout.world import Command
from rebake.testing.simulation.causes import Causes
from rebake.testing.simulation.holding import Holding
from rebake.testing.simulation.keeping import Keeping, shares_asked, streak_of
from rebake.testing.simulation.people import People, digest_in
from rebake.testing.simulation.running import Running
from rebake.testing.simulation.scenario import KEY, SILENT
from rebake.testing.simulation.world import Reality
from rebake.traffic.ports import EnvironmentRoute, RouteObservation

CELLS = dict(TABLE)
FINAL = ("promoted", "rolled-back", "refused", "stopped", "failed")
HARM = ("harmful", "candidate-lost", "cannot-start", "check-failed", "undecided-roll-back")
ENDINGS = {
    "stop": "stopped",
    "superseded": "stopped",
    "group-returns": "stopped",
    "blocked": "failed",
    **dict.fromkeys(HARM, "rolled-back"),
}
SPARE_INSTANCES = 2
MOST_FAILURES = 10
LONGEST_PAUSE = 60.0
COMING_SECONDS = 9.0
"""An instance that was asked for may take this long until it is shown."""
LISTEN = "127.0.0.1:8080"


class Watch:
    """Collects violations; the run ends at the first.

    Attributes:
        looked_at: when the look under way began, by the wall clock and in truth.
        coming: instances that were asked for and never shown: their fleet, and when, by both clocks.
    """

    def __init__(self, reality: Reality) -> None:
        self.reality = reality
        self.violations: list[str] = []
        self.asked: dict[str, tuple[str, Revision, Plan]] = {}
        self.revisions: dict[str, Revision] = {}
        self.doc: Mapping[str, Any] = {}
        self.before: Mapping[str, Any] = {}
        self.stable: str | None = None
        self.under_way: str | None = None
        self.states: dict[str, str] = {}
        self.endings: dict[str, str] = {}
        self.soaked: set[str] = set()
        self.hurried: set[str] = set()
        self.told: Callable[[str, str | None, str, Event | None], None] = lambda *_: None
        self.waived: set[str] = set()
        self.promoted: set[str] = set()
        self.intents: set[str] = set()
        self.named: set[str] = set()
        self.people = People(self.fail)
        self.gates = Holding(self.fail)
        self.people.held = lambda rollout: rollout in self.gates.held
        self.people.held_in_soak = self._held_in_soak
        self.causes = Causes(reality, self.people, self.fail)
        self.keeping = Keeping(reality, self.fail)
        self.running = Running(reality, self.fail)
        self.whole: set[str] = set()
        self.met: set[str] = set()
        self.proved: set[str] = set()
        self.unfit: set[str] = set()
        self.coming: dict[str, tuple[str, float, float]] = {}
        self.soaks_since: dict[str, tuple[float, float]] = {}
        self.looked_at = (0.0, 0.0)

    def fail(self, promise: str, sentence: str) -> None:
        self.violations.append(f"{promise}: {sentence}")

    def ask(self, rollout: str, kind: str, revision: Revision, plan: Plan) -> None:
        """A person asks for a rollout."""
        self.asked[rollout] = (kind, revision, plan)
        self.revisions[revision.digest] = revision

    def asks(self, command: Command) -> None:
        """A person asks for anything."""
        self.people.asks(command)
        if command.rollout is not None:
            self.ask(command.rollout.id, "deploy", command.rollout.revision, command.rollout.plan)

    def kind_of_rollout(self, rollout: str) -> str:
        asked = self.asked.get(rollout)
        return "good" if asked is None else self.reality.kinds[asked[1].release]

    def wanted(self, fleet: str) -> int:
        for cohort in ("stable", "candidate"):
            doc = self.doc.get(cohort)
            if doc is not None and doc["id"] == fleet:
                return int(doc["plan"]["instances"])
        return self.asked[fleet][2].instances if fleet in self.asked else 0

    # What an engine was shown

    def shown(self, owner: str, instances: Sequence[Instance], honest: bool) -> None:
        self.keeping.of(owner).instances = {i.id: i for i in instances}
        by_fleet: dict[str, list[Instance]] = {}
        for instance in instances:
            self.coming.pop(instance.id, None)
            by_fleet.setdefault(instance.fleet, []).append(instance)
            if instance.was_healthy:
                self.proved.add(instance.id)
            if instance.state == "exited" or instance.drift or (instance.was_healthy and not instance.healthy):
                self.unfit.add(instance.id)
            if not honest:
                self.unfit.add(instance.id)
        for fleet, members in by_fleet.items():
            wanted = self.wanted(fleet)
            fit = [i for i in members if i.healthy]
            if wanted and len(fit) >= wanted:
                self.whole.add(fleet)
        lost = not self.reality.jobs and not any(i.healthy for i in by_fleet.get(self.stable or "", ()))
        if self.under_way is not None and lost:
            self.waived.add(self.under_way)
            self.causes.alone.add(self.under_way)
        self._spare()

    def _spare(self) -> None:
        """Where there is one too many, which one goes is the engine's choice."""
        for seen in self.keeping.seen.values():
            counts: dict[str, list[str]] = {}
            for instance in seen.instances.values():
                if instance.state in ("starting", "running"):
                    counts.setdefault(instance.fleet, []).append(instance.id)
            for fleet, members in counts.items():
                if len(members) > self.wanted(fleet):
                    self.unfit.update(members)

    def read(self, owner: str, seen: RouteObservation | None) -> None:
        self.keeping.of(owner).route = seen

    # What an engine does

    def effect(self, owner: str, call: str, subject: str) -> None:
        """Promise 9: recorded before, and only by the engine that leads."""
        action = {"apply": f"route:{subject}"}.get(call, f"{call}:{subject}")
        if action not in self.intents:
            self.fail("9", f"{action} was done before its intent was recorded")
        holder = self.reality.ledger.leases.get(KEY, ("nobody", 0, 0.0))[0]
        if holder != owner:
            self.fail("9", f"engine {owner} did {action} while {holder} holds the lease")

    def carries(self, fence: Fence | None) -> None:
        """Promise 9: every effect carries the token of the lease, so that a late one can be refused."""
        token = self.reality.ledger.leases.get(KEY, ("nobody", 0, 0.0))[1]
        if fence is None or (fence.key, fence.token) != (KEY, token):
            self.fail("9", f"an effect came with {fence}, and the lease has token {token}")

    def launch(self, owner: str, spec: InstanceSpec) -> None:
        self.effect(owner, "launch", spec.id)
        fleets = [self.doc[c]["id"] for c in ("stable", "candidate") if self.doc.get(c)]
        if spec.fleet not in fleets:
            self.fail("9", f"{spec.id} was launched for a fleet that is neither stable nor candidate")
        if self.reality.jobs:
            self.running.begins(spec)
        else:
            self._backs_off(spec)
            self._missing(owner, spec)
        self._goes_to_work(owner, spec)
        known = self.revisions.get(spec.revision)
        if known is None or spec.run.env.get("VARIANT") != known.settings.env["VARIANT"]:
            self.fail("8", f"{spec.id} was launched with settings that are not its revision's")
        room = 2 * self.wanted(spec.fleet) + SPARE_INSTANCES + self.reality.faults.met
        if self.reality.live(spec.fleet) >= room:
            self.fail("9", f"{spec.id} is one more than {room} instances of {spec.fleet}")

    def _missing(self, owner: str, spec: InstanceSpec) -> None:
        """Promise 9: nothing is started twice. What was asked for and not shown yet is on its way for a while."""
        wall, true = self.looked_at
        seen = self.keeping.of(owner).instances
        doc = next((d for d in map(self.doc.get, ("stable", "candidate")) if d and d["id"] == spec.fleet), None)
        gone = {f["instance"] for f in doc["failures"]} | set(doc["leaving"]) if doc else set()
        alive = {n for n, i in seen.items() if i.fleet == spec.fleet and i.state in ("starting", "running")}
        coming = {
            name
            for name, (fleet, at, truly) in self.coming.items()
            if fleet == spec.fleet and 0 <= wall - at < COMING_SECONDS and true - truly < COMING_SECONDS
        }
        there = len((alive - gone - self.unfit) | (coming - {spec.id}))
        if there >= self.wanted(spec.fleet) > 0:
            self.fail("9", f"{spec.id} was asked for, though {there} are there or on their way")
        self.coming.setdefault(spec.id, (spec.fleet, wall, true))

    def _goes_to_work(self, owner: str, spec: InstanceSpec) -> None:
        """Promises 3 and 4 without a route: who is launched, works. So it passed its checks and was approved, and there
        are no more of the candidate than its step takes."""
        asked = self.asked.get(spec.fleet)
        if not self.reality.unrouted or asked is None or spec.fleet != (self.doc.get("candidate") or {}).get("id"):
            return
        kind, _, plan = asked
        if kind != "undo" and plan.approval and spec.fleet not in self.causes.approved:
            self.fail("3", f"{spec.id} went to work, and nobody approved it")
        for check in plan.checks if kind != "undo" else ():
            if f"check:{spec.fleet}:{check.name}" not in self.reality.checked:
                self.fail("3", f"{spec.id} went to work before check {check.name} passed")
        if self.reality.jobs:
            return
        seen = self.keeping.of(owner).instances.values()
        candidate = self.doc["candidate"]
        gone = {f["instance"] for f in candidate["failures"]} | set(candidate["leaving"])
        alive = [i.id for i in seen if i.fleet == spec.fleet and i.state in ("starting", "running") and not i.drift]
        asked_now = {action.removeprefix("launch:") for action in self.keeping.of(owner).done}  # earlier in this look
        working = len((set(alive) - gone) | {name for name in asked_now if name.startswith(f"{spec.fleet}-")})
        if working >= self._step_size(plan):
            self.fail("10", f"{spec.id} is one more than the {self._step_size(plan)} instances of its step")

    def _step_size(self, plan: Plan) -> int:
        """Instances of the candidate that the remembered step takes."""
        stable, weight = self.doc.get("stable"), int((self.doc.get("rollout") or {}).get("weight", 0))
        return instances_at(weight, int(stable["plan"]["instances"]) if stable is not None else 0, plan.instances)

    def _backs_off(self, spec: InstanceSpec) -> None:
        """Promise 12: what cannot stay up is started again ever later, and after ten times a person is told."""
        docs = (self.doc.get(cohort) for cohort in ("stable", "candidate"))
        streak = next((streak_of(doc) for doc in docs if doc is not None and doc["id"] == spec.fleet), [])
        if len(streak) >= MOST_FAILURES:
            self.fail("12", f"{spec.id} was launched after {len(streak)} failures in a row")
        pause = min(2.0 ** (len(streak) - 2), LONGEST_PAUSE) if len(streak) > 1 else 0.0
        if streak and self.looked_at[0] < streak[-1]["at"] + pause - 0.01:
            self.fail("12", f"{spec.id} was launched without {pause:g}s of pause after {len(streak)} failures")

    def retire(self, owner: str, instance: str, grace_ms: int) -> None:
        self.effect(owner, "retire", instance)
        process = self.reality.platform.processes.get(instance)
        if process is None or not self.reality.accepts(instance):
            return
        if process.spec.fleet.startswith("r-stranger") and instance not in self.named:
            self.fail("2", f"{instance} was retired, and the ledger does not name it")
        busy = self.reality.unrouted or instance in self.reality.weighted_at
        if busy and process.spec.fleet in self.asked and grace_ms < process.spec.run.drain_ms:
            self.fail("5", f"{instance} was at work, and was given {grace_ms} ms to finish")
        fleet = process.spec.fleet
        if self.reality.jobs:
            self.running.told_to_finish(instance, stable=fleet == self.stable)
        elif fleet == self.stable and instance not in self.unfit:
            self.fail("4", f"{instance} of stable was retired, healthy and wanted")
        route = self.reality.route
        shares = {f.fleet: f for f in route.fleets} if route is not None else {}
        served = shares.get(fleet)
        if served is not None and served.weight_basis_points:
            if any(e.instance == instance for e in served.endpoints):
                self.fail("5", f"{instance} was retired while users were sent to it")
        elif self.reality.in_flight(instance):
            since = max(self.reality.unused(instance))
            if since < process.spec.run.drain_ms / 1000:
                self.fail(
                    "5", f"{instance} was retired {since:.2f}s after its last request came, with requests in flight"
                )

    def apply(self, owner: str, route: EnvironmentRoute) -> None:
        self.effect(owner, "apply", route.version)
        if self.reality.unrouted:
            self.fail("5", "a route was written for a fleet without one")
        total = sum(f.weight_basis_points for f in route.fleets)
        if total not in (0, FULL):
            self.fail("5", f"a route was written whose weights sum to {total}")
        shares = {f.fleet: f.weight_basis_points for f in route.fleets if f.weight_basis_points}
        if shares != shares_asked(self.doc):
            self.fail("5", f"a route was written with {shares}, intended was {shares_asked(self.doc)}")
        if route.listen != LISTEN:
            self.fail("5", f"a route was written that listens on {route.listen}")
        for fleet in route.fleets:
            if fleet.weight_basis_points:
                self._meets_users(fleet.fleet, [e.instance for e in fleet.endpoints])
        if self.stable is not None:
            self._stable_whole(owner, route, self.stable)

    def _meets_users(self, fleet: str, endpoints: Sequence[str]) -> None:
        """Promise 3, when a fleet first gets users; and no instance that was never healthy among the endpoints."""
        for instance in endpoints:
            if instance not in self.proved:
                self.fail("3", f"{instance} stands in the route and was never healthy")
        if fleet in self.met:
            return
        self.met.add(fleet)
        if fleet not in self.whole:
            self.fail("3", f"{fleet} got users before all its instances were healthy")
        asked = self.asked.get(fleet)
        if asked is None or asked[0] == "undo":
            return
        if asked[2].approval and fleet not in self.causes.approved:
            self.fail("3", f"{fleet} got users, and nobody approved it")
        for check in asked[2].checks:
            if f"check:{fleet}:{check.name}" not in self.reality.checked:
                self.fail("3", f"{fleet} got users before check {check.name} passed")

    def _stable_whole(self, owner: str, route: EnvironmentRoute, stable: str) -> None:
        """Promise 4: every fit instance of stable stays in the route until the soak ends."""
        if self.under_way is not None and self.under_way in self.soaked:
            return
        registered = {e.instance for f in route.fleets if f.fleet == stable for e in f.endpoints}
        for instance in self.keeping.of(owner).instances.values():
            fit = instance.fleet == stable and instance.state == "running" and instance.healthy
            if fit and instance.id not in registered and instance.id not in self.unfit:
                self.fail("4", f"{instance.id} of stable was taken out of the route, healthy and wanted")

    # What an engine writes

    def committed(self, owner: str, entries: Sequence[Draft], puts: Sequence[Put]) -> None:
        self.before = self.doc
        self.keeping.written += 1
        for put in puts:
            if put.kind == "environment" and put.doc is not None:
                self.doc = put.doc
                self._spare()
            elif put.kind == "judging" and put.doc is not None:
                self._well_dealt(put.key, put.doc)
        for draft in entries:
            if draft.kind == "intent":
                self.intents.add(str(draft.body["action"]))
                if draft.body.get("do") == "Prepare":
                    self.intents.add(f"prepare:{draft.body['release']}")
            elif draft.kind == "drift":
                self.named.add(str(draft.body.get("instance")))
            elif draft.kind == "outcome":
                self.keeping.outcome(draft.body)
            elif draft.kind == "decision" and "verb" in draft.body:
                self.people.decision(draft.body)
            elif draft.kind == "transition":
                self._transition(owner, str(draft.rollout), draft.body)
        self.people.commit_ends(self.doc, puts)
        self.running.written(self.doc)
        self._sizes(entries)
        rollout = self.doc.get("rollout")
        if rollout is not None and rollout["id"] in self.asked:
            self.causes.weight(self.doc, self.asked[rollout["id"]][2], self.looked_at)

    def _sizes(self, entries: Sequence[Draft]) -> None:
        """Promise 7: what is taken down is gone, and a size that was asked for is the size."""
        decided = [d.body for d in entries if d.kind == "decision" and "verb" in d.body]
        stable = self.doc.get("stable")
        for body in decided:
            plan = self.people.commands[str(body["request"])].plan
            if body["verb"] == "down":
                self.stable = None
                if self.under_way is not None:  # it began in the same look, and has nobody to be compared with
                    self.waived.add(self.under_way)
                    self.causes.alone.add(self.under_way)
                if stable is not None:
                    self.fail("7", "it was taken down, and stable is still there")
            elif body["verb"] == "resize" and plan is not None and stable is not None and len(decided) == 1:
                same = (self.before.get("stable") or {}).get("id") == stable["id"]
                if same and stable["plan"]["instances"] != plan.instances:
                    self.fail("7", f"stable has {stable['plan']['instances']} instances, asked for {plan.instances}")

    def _transition(self, owner: str, rollout: str, body: Mapping[str, Any]) -> None:
        before, after = body["from"], str(body["to"])
        event = body.get("event")
        self.people.moved(rollout, before and str(before), after, None if event is None else Event(event))
        if before is None:
            self._begun(rollout)
        elif event is None:  # taken out of the queue, or down
            self.states[rollout] = after
            self.told(rollout, str(before), after, None)
            return
        elif self.states.get(rollout) != str(before):
            self.fail("11", f"{rollout} goes on from {before}, but it was {self.states.get(rollout)}")
        else:
            self._stepped(owner, rollout, State(before), after, Event(event))
        self.states[rollout] = after
        self.told(rollout, before and str(before), after, None if event is None else Event(event))
        if after in FINAL:
            self._ended(rollout, str(before), after)

    def _begun(self, rollout: str) -> None:
        if self.under_way is not None and self.states.get(self.under_way) not in FINAL:
            self.fail("6", f"{rollout} began while {self.under_way} is {self.states.get(self.under_way)}")
        self.under_way = rollout
        if self.stable is None:
            self.waived.add(rollout)
            self.causes.alone.add(rollout)
        if rollout not in self.asked:
            self._undo_begun(rollout)

    def _undo_begun(self, rollout: str) -> None:
        """Promise 8: an undo goes back to a revision that served before, settings included."""
        doc = self.doc.get("rollout")
        docs = [d for d in (doc, *self.doc.get("queue", ())) if d is not None and d["id"] == rollout]
        if not docs:
            return  # it went on within the same look
        from rebake.core.codec import load

        revision, plan = load(Revision, docs[0]["revision"]), load(Plan, docs[0]["plan"])
        if digest_in(docs[0]) != self.people.going_back.get(rollout):
            self.fail("8", f"{rollout} does not go back to the newest revision that may serve again")
        if plan.checks or plan.approval or plan.after or plan.strategy.steps or plan.strategy.profile:
            self.fail("8", f"{rollout} has gates, steps or checks in its way")
        self.asked[rollout] = ("undo", revision, plan)
        self.people.plans[rollout] = plan

    def _stepped(self, owner: str, rollout: str, before: State, after: str, event: Event) -> None:
        cell = CELLS[before, event]
        if event is not Event.RETURNED and str(cell.to) != after:
            self.fail("11", f"{rollout} went from {before} to {after} on {event}: not in the table")
        if rollout in self.asked:
            asked = self.asked[rollout]
            in_group = rollout in self.people.lockstep and event is Event.SOAKED  # its gates were asked before its vote
            if asked[0] != "undo" and not in_group:
                self.gates.stepped(rollout, asked[2], event, self.before, self.looked_at[0])
            self.causes.event(rollout, asked, before, event, self.looked_at)
            if event not in STAYING or event is Event.AGREED:
                self.causes.entered(rollout, asked[2], State(after), event, self.looked_at)
        if event in (Event.SHIFTED, Event.SHIFTED_LAST, Event.RETURNED):
            self._read_back(owner, rollout, before)
        if event in (Event.APPROVE, Event.AGREED, Event.STABLE_BROKEN, Event.TAKES_OVER):
            self.waived.add(rollout)
        if after == State.RETURNING:
            self.endings[rollout] = self._ending(before, event)
            if self.endings[rollout] == "rolled-back":
                self.people.shut_away(rollout)
        if event is Event.HURRIED:
            self.hurried.add(rollout)
        if after in (State.FINISHING, State.PROMOTED):
            self.soaked.add(rollout)
        if after == State.SOAKING and event not in STAYING:
            self.soaks_since[rollout] = self.looked_at
            self._judged(rollout)
        if event is Event.SOAKED:
            self._soaked(rollout)

    def _soaked(self, rollout: str) -> None:
        """Promise 4: the soak lasts as long as the file says, unless a newer request waits for its end."""
        if rollout in self.asked and self.stable is not None and rollout not in self.hurried:
            soaked = self.looked_at[1] - self.soaks_since.get(rollout, (0.0, 0.0))[1]  # in truth, whatever a clock says
            if soaked < self.asked[rollout][2].soak_ms / 1000 - 0.001:
                self.fail("4", f"the soak of {rollout} ended after {soaked:.2f}s")

    def _held_in_soak(self, rollout: str) -> bool:
        """Whether ending this soak would move users while a gate in time is shut."""
        remembered = self.before.get("rollout") or {}
        if rollout not in self.asked or self.asked[rollout][0] == "undo" or remembered.get("id") != rollout:
            return False
        plan, at = self.asked[rollout][2], self.looked_at[0]
        return bool(remembered["weight"] < FULL and self.gates.shut(rollout, plan, self.before, at))

    @staticmethod
    def _ending(before: State, event: Event) -> str:
        if event is Event.UNDO:
            return "rolled-back" if before in (State.SOAKING, State.FINISHING) else "stopped"
        return ENDINGS[event]

    def _read_back(self, owner: str, rollout: str, before: State) -> None:
        """Promise 5: a switch is over when the balancer reports it, not when it was asked for."""
        remembered = self.before.get("rollout")
        same = remembered is not None and remembered["id"] == rollout and remembered["state"] == before
        if self.reality.unrouted:
            self._raised(owner, rollout, before, same=same)
            return
        intended = shares_asked(self.before if same else self.doc)
        route = self.keeping.of(owner).route
        found = {f: w for f, w in route.weights.items() if w} if route is not None else {}
        if before is State.RETURNING or not same:
            stable = self.doc.get("stable")
            intended = {stable["id"]: FULL} if stable is not None and before is State.RETURNING else intended
        if found != intended and not (before is State.RETURNING and not self.doc.get("stable")):
            self.fail("5", f"{rollout} left {before} although the balancer reports {found}, not {intended}")

    def _raised(self, owner: str, rollout: str, before: State, *, same: bool) -> None:
        """The same without a route: a step is taken when its instances were seen healthy."""
        if before is State.RETURNING or rollout not in self.asked or self.reality.jobs:
            return
        document = self.before if same else self.doc
        weight, stable = int((document.get("rollout") or {}).get("weight", 0)), document.get("stable")
        plan = self.asked[rollout][2]
        wanted = instances_at(weight, int(stable["plan"]["instances"]) if stable is not None else 0, plan.instances)
        fit = [i for i in self.keeping.of(owner).instances.values() if i.fleet == rollout and i.healthy]
        if len(fit) < wanted:
            self.fail("5", f"{rollout} left {before} with {len(fit)} healthy instances, and its step takes {wanted}")

    def _judged(self, rollout: str) -> None:
        """Promise 10: no evidence, no pass; and harm that everybody could see is not promoted."""
        if rollout in self.waived or rollout not in self.asked:
            return
        kind, _, plan = self.asked[rollout]
        if kind == "undo" or plan.undecided == "promote" or not (plan.strategy.steps or plan.strategy.profile):
            return
        if any(m.name == SILENT and m.missing == "undecided" for m in plan.judge.metrics):
            self.fail("10", f"{rollout} was promoted although a metric that must be heard was silent")
        if self.reality.unrouted:
            worked = self.reality.worked.get(rollout, 0.0)
            if self.reality.jobs and self.reality.ran.get(rollout, 0) < plan.judge.min_requests:
                self.fail("10", f"{rollout} was promoted after {self.reality.ran.get(rollout, 0)} runs")
            elif not self.reality.jobs and worked < 2.0:
                self.fail("10", f"{rollout} was promoted after {worked:.1f} instance-seconds of work")
            return
        counted = self.reality.router.counters.get(rollout)
        if self.reality.router.epoch == "1" and (counted is None or counted.requests < plan.judge.min_requests):
            self.fail("10", f"{rollout} was promoted on {counted.requests if counted else 0} requests")
        if self.kind_of_rollout(rollout) == "harmful" and self.kind_of_rollout(self.stable or "") != "harmful":
            self.fail("10", f"{rollout} was promoted although half of its answers are errors")

    def _ended(self, rollout: str, before: str, after: str) -> None:
        if before == "returning" and after != self.endings.get(rollout):
            self.fail("11", f"{rollout} ended {after}, expected {self.endings.get(rollout)}")
        if self.under_way == rollout:
            self.under_way = None
        if after == "promoted":
            self.stable = rollout
            if rollout in self.asked:
                self.promoted.add(self.asked[rollout][1].digest)

    def _well_dealt(self, rollout: str, doc: Mapping[str, Any]) -> None:
        """Promise 10: the balancer keeps the weights here, so no judge says that it does not."""
        fault = (doc["verdict"] or {}).get("fault")
        if fault and not self.reality.faults.met and not {rollout, self.stable} & self.reality.touched:
            self.fail("10", f"the judge of {rollout} says: {fault}")

    # After every step

    def lost(self, requests: int) -> None:
        """Promise 5: requests that found nobody, though no instance was harmed."""
        if requests:
            self.fail("5", f"{requests} requests were lost")

    def still_listening(self) -> None:
        route = self.reality.route
        if self.reality.unrouted or self.reality.forgotten:
            return
        if self.stable is not None and (route is None or not any(f.weight_basis_points for f in route.fleets)):
            self.fail("5", "users find no route, although a release was promoted")
