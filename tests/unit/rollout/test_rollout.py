"""Rollouts as people meet them, on the real engine over a simulated world."""

from __future__ import annotations

import pytest

from rebake.cli.story import progress_line
from rebake.errors import Permanent, Transient
from rebake.ledger.ports import Put
from rebake.platforms.model import Drift
from rebake.rollout.plan import HttpCheck, Strategy
from rebake.rollout.states import State
from rebake.rollout.world import Job
from tests.unit.rollout.world import CANARY, KEY, Shop

A, B, C = ("sha256:" + c * 64 for c in "abc")


@pytest.fixture
def shop() -> Shop:
    return Shop()


def test_a_first_release_is_promoted_without_a_soak(shop: Shop) -> None:
    view = shop.until_over(shop.deploy(A))
    assert view["outcome"] == "promoted"
    assert view["exit_code"] == 0
    assert shop.stable_release == A
    assert shop.weights() == {A: 10_000}


def test_nothing_listens_before_the_first_fleet_is_healthy(shop: Shop) -> None:
    shop.platform.behaviour(A).start_seconds = 5
    shop.deploy(A)
    shop.until_state(State.LAUNCHING)
    for _ in range(20):
        shop.tick()
        assert sum(shop.weights().values()) == 0


def test_blue_green_keeps_stable_whole_until_the_soak_ends(shop: Shop) -> None:
    shop.serving(A)
    shop.router.lost = 0
    rollout = shop.deploy(B)
    shop.until_state(State.SOAKING)
    view = shop.engine.rollout_view(KEY, rollout)
    assert view is not None
    assert view["outcome"] == "promoted"
    assert shop.weights() == {A: 0, B: 10_000}
    assert view["instances"]["stable"] == {"wanted": 2, "healthy": 2}
    assert shop.until_over(rollout)["outcome"] == "promoted"
    shop.until(lambda: len(shop.platform.processes) == 2)
    assert shop.stable_release == B
    assert shop.router.lost == 0


def test_a_canary_goes_step_by_step_and_holds_back_during_the_soak(shop: Shop) -> None:
    shop.serving(A)
    rollout = shop.deploy(B, strategy=CANARY, hold_back_basis_points=2000)
    seen: list[int] = []

    def watch() -> bool:
        share = shop.weights().get(B, 0)
        if share and (not seen or seen[-1] != share):
            seen.append(share)
        return shop.ended(rollout) is not None

    shop.until(watch)
    assert seen == [500, 2500, 8000, 10_000]
    assert shop.stable_release == B


def test_a_harmful_canary_is_taken_back_and_quarantined(shop: Shop) -> None:
    shop.serving(A)
    shop.platform.behaviour(B).error_rate = 0.5
    view = shop.until_over(shop.deploy(B, strategy=CANARY))
    assert view["outcome"] == "rolled-back"
    assert view["exit_code"] == 3
    assert "taken back after" in view["reason"]
    assert view["requests"]["candidate"]["errors"] > 0
    assert shop.weights()[A] == 10_000
    again = shop.until_over(shop.deploy(B, strategy=CANARY))
    assert again["outcome"] == "refused"
    assert again["exit_code"] == 4
    assert "quarantine" in again["reason"]


def test_harm_in_the_soak_is_taken_back_too(shop: Shop) -> None:
    shop.serving(A)
    rollout = shop.deploy(B, strategy=CANARY, hold_back_basis_points=2000)
    shop.until_state(State.SOAKING)
    shop.platform.behaviour(B).error_rate = 0.2
    assert shop.until_over(rollout)["outcome"] == "rolled-back"
    assert shop.stable_release == A


def test_without_traffic_a_canary_holds_on_and_then_asks_a_person(shop: Shop) -> None:
    shop.serving(A)
    shop.rate = 0
    rollout = shop.deploy(B, strategy=CANARY)
    shop.until_state(State.ASKING)
    view = shop.engine.rollout_view(KEY, rollout)
    assert view is not None
    assert "undecided" in view["reason"]
    shop.command("approve")
    shop.tick()
    assert shop.state is not State.ASKING


@pytest.mark.parametrize(("policy", "outcome"), [("promote", "promoted"), ("roll-back", "rolled-back")])
def test_the_file_decides_what_happens_to_the_undecided(shop: Shop, policy: str, outcome: str) -> None:
    shop.serving(A)
    shop.rate = 0
    assert shop.until_over(shop.deploy(B, strategy=CANARY, undecided=policy))["outcome"] == outcome


def test_a_candidate_that_cannot_start_is_taken_back_with_its_log(shop: Shop) -> None:
    shop.serving(A)
    shop.platform.behaviour(B).exits = "exit 1"
    view = shop.until_over(shop.deploy(B))
    assert view["outcome"] == "rolled-back"
    assert "exit 1" in view["reason"]
    assert view["log_tail"]
    assert shop.weights()[A] == 10_000


def test_a_candidate_that_never_becomes_healthy_is_taken_back_after_its_start_time(shop: Shop) -> None:
    shop.platform.behaviour(A).healthy = False
    view = shop.until_over(shop.deploy(A))
    assert view["outcome"] == "rolled-back"
    assert "not healthy within 30s" in view["reason"]


def test_what_an_instance_says_of_its_start_time_is_told_once(shop: Shop) -> None:
    shop.platform.behaviour(A).healthy = False
    rollout = shop.deploy(A)
    shop.until(lambda: bool(shop.platform.processes))
    for instance in shop.platform.processes:
        shop.platform.make_sick(instance, "not healthy within 30s: last: connection refused")
    assert shop.until_over(rollout)["reason"].count("not healthy within") == 1


def test_a_failing_check_ends_it_before_any_user(shop: Shop) -> None:
    shop.serving(A)
    shop.jobs.scripted["smoke"] = Job("failed", "expected status 200, found 500")
    view = shop.until_over(shop.deploy(B, checks=(HttpCheck("smoke", "/"),)))
    assert view["outcome"] == "rolled-back"
    assert "check smoke failed" in view["reason"]
    assert view["remedy"].startswith("rebake logs production")
    assert view["log_tail"] == [f"log of {view['rollout']}-1"], "the instance's log, not the check's answer"
    assert all(
        w == 0
        for r in shop.router.history
        for f in r.fleets
        if f.fleet == view["rollout"]
        for w in [f.weight_basis_points]
    )


def test_stop_works_from_every_state_and_leaves_stable_alone(shop: Shop) -> None:
    shop.serving(A)
    for number, state in enumerate((State.LAUNCHING, State.HOLDING, State.SOAKING, State.ASKING), start=1):
        release = "sha256:" + str(number) * 64
        shop.platform.behaviour(release).start_seconds = 1
        rollout = shop.deploy(release, strategy=CANARY, approval=state is State.ASKING, hold_back_basis_points=2000)
        shop.until_state(state)
        shop.command("stop")
        view = shop.until_over(rollout)
        assert view["outcome"] == "stopped", state
        assert view["exit_code"] == 6
        assert shop.weights()[A] == 10_000
        shop.until(lambda: not shop.environment.leaving)
        assert len(shop.platform.processes) == 2


def test_stop_is_safe_when_nothing_runs(shop: Shop) -> None:
    shop.serving(A)
    shop.command("stop")
    shop.tick()
    assert shop.weights() == {A: 10_000}


def test_undo_in_the_soak_is_one_write_of_the_route(shop: Shop) -> None:
    shop.serving(A)
    rollout = shop.deploy(B)
    shop.until_state(State.SOAKING)
    launched = len(shop.platform.launches)
    shop.command("undo", rollout_id="r-undo")
    view = shop.until_over(rollout, seconds=1)
    assert view["outcome"] == "rolled-back"
    assert shop.weights()[A] == 10_000
    assert len(shop.platform.launches) == launched


def test_undo_after_the_soak_raises_the_previous_revision_with_its_settings(shop: Shop) -> None:
    first = shop.deploy(A, env={"GREETING": "hello"})
    shop.until_over(first)
    second = shop.deploy(A, env={"GREETING": "welcome"})
    shop.until_over(second)
    shop.until(lambda: not shop.environment.leaving)
    shop.command("undo", rollout_id="r-undo")
    view = shop.until_over("r-undo")
    assert view["outcome"] == "promoted"
    assert view["kind"] == "undo"
    stable = shop.environment.stable
    assert stable is not None
    assert stable.revision.settings.env == {"GREETING": "hello"}
    running = [p.spec.run.env["GREETING"] for p in shop.platform.processes.values() if p.spec.fleet == stable.id]
    assert running == ["hello", "hello"]


def test_undo_skips_a_quarantined_revision_and_goes_further_back(shop: Shop) -> None:
    for release in (A, B, C):
        shop.serving(release)
    shop.command("undo", rollout_id="r-undo-1")
    shop.until_over("r-undo-1")
    assert shop.stable_release == B
    shop.command("undo", rollout_id="r-undo-2")
    shop.until_over("r-undo-2")
    assert shop.stable_release == A


def test_a_second_undo_does_not_undo_the_first(shop: Shop) -> None:
    for release in (A, B):
        shop.serving(release)
    shop.command("undo", rollout_id="r-undo-1")
    shop.tick()
    again = shop.command("undo", rollout_id="r-undo-2")
    assert shop.until_over("r-undo-1")["outcome"] == "promoted"
    assert shop.stable_release == A
    refusal = shop.ledger.get("refusal", f"{KEY}/{again}")
    assert refusal is not None
    assert "goes back to" in refusal["reason"]


def test_a_release_that_serves_on_under_other_settings_keeps_its_success(shop: Shop) -> None:
    shop.serving(A)
    shop.deploy(A, env={"GREETING": "welcome"})
    shop.until_state(State.SOAKING)
    shop.command("undo", rollout_id="r-undo")
    shop.until(lambda: shop.environment.rollout is None)
    assert shop.ledger.get("success", f"{KEY}/{A}") is not None


def test_undo_says_what_it_passes_over(shop: Shop) -> None:
    shop.serving(A)
    shop.serving(B)
    shop.serving(C)
    shop.ledger.commit([], [quarantined(shop.environment.previous[0].revision.digest)], at=shop.clock.now())
    shop.command("undo", rollout_id="r-9001")
    view = shop.until_over("r-9001")
    assert shop.stable_release == A
    started = next(n for n in shop.notes("transition") if n.get("kind") == "undo")
    assert "passing over" in started["reason"]
    assert view["outcome"] == "promoted"


def quarantined(revision: str) -> Put:
    doc = {"service": "shop", "environment": "production", "revision": revision, "release": B, "reason": "", "at": 0.0}
    return Put("quarantine", f"{KEY}/{revision}", doc)


def test_undo_after_a_rollout_that_failed_half_way_goes_to_what_served_before_stable(shop: Shop) -> None:
    shop.serving(A)
    shop.serving(B)

    def no_route(call: str, _subject: str) -> None:
        if call == "apply" and shop.environment.rollout is not None and shop.environment.rollout.weight:
            raise Permanent("address-in-use", "the address is taken", where="127.0.0.1:8080", remedy="free it")

    shop.router.fail = no_route
    assert shop.until_over(shop.deploy(C, strategy=CANARY))["outcome"] == "failed"
    shop.router.fail = lambda _call, _subject: None
    assert shop.stable_release == B
    shop.command("undo", rollout_id="r-9001")
    assert shop.until_over("r-9001")["outcome"] == "promoted"
    assert shop.stable_release == A


@pytest.mark.parametrize("state", [State.LAUNCHING, State.HOLDING, State.SOAKING])
def test_undo_while_the_platform_fails_half_way_leaves_stable_serving(shop: Shop, state: State) -> None:
    shop.serving(A)
    rollout = shop.deploy(B, strategy=CANARY)
    shop.until_state(state)

    def away(call: str, _subject: str) -> None:
        if call in ("launch", "retire"):
            raise Permanent("platform-away", "the platform does nothing now")

    shop.platform.fail = away
    shop.command("undo", rollout_id="r-9001")
    shop.until_over(rollout)
    assert shop.stable_release == A
    assert shop.weights()[A] == 10_000


def test_a_fleet_that_is_retired_is_remembered_with_the_time_it_took_to_start(shop: Shop) -> None:
    shop.platform.behaviour(A).start_seconds = 7.0
    shop.serving(A)
    shop.serving(B)
    took = shop.environment.previous[0].start_seconds
    assert took is not None
    assert 7.0 <= took < 9.0


def test_undo_without_an_earlier_revision_is_refused(shop: Shop) -> None:
    shop.serving(A)
    command = shop.command("undo", rollout_id="r-undo")
    shop.tick()
    refusal = shop.ledger.get("refusal", f"{KEY}/{command}")
    assert refusal is not None
    assert "no earlier revision" in str(refusal["reason"])
    assert shop.stable_release == A


def test_a_newer_request_supersedes(shop: Shop) -> None:
    shop.serving(A)
    first = shop.deploy(B, strategy=CANARY)
    shop.until_state(State.HOLDING)
    second = shop.deploy(C, strategy=CANARY)
    assert shop.until_over(first)["outcome"] == "stopped"
    assert "superseded" in str(shop.until_over(first)["reason"])
    assert shop.until_over(second)["outcome"] == "promoted"
    assert shop.stable_release == C


def test_a_newer_request_waits_when_the_file_says_so(shop: Shop) -> None:
    shop.serving(A)
    first = shop.deploy(B)
    shop.until_state(State.LAUNCHING)
    second = shop.deploy(C, when_busy="wait")
    shop.until(lambda: shop.ended(second) is not None)
    assert shop.until_over(first)["outcome"] == "promoted"
    assert shop.stable_release == C


def test_a_broken_stable_never_blocks_its_fix(shop: Shop) -> None:
    shop.serving(A)
    for name in list(shop.platform.processes):
        shop.platform.make_sick(name)
    rollout = shop.deploy(B, strategy=CANARY, hold_back_basis_points=2000)
    shop.until_state(State.SOAKING, seconds=30)
    assert shop.weights()[B] == 10_000
    assert shop.until_over(rollout)["outcome"] == "promoted"


def test_only_releases_that_succeeded_elsewhere_pass_the_gate(shop: Shop) -> None:
    view = shop.until_over(shop.deploy(A, after="staging"))
    assert view["outcome"] == "refused"
    assert "staging" in view["reason"]
    assert not shop.platform.launches


def test_a_dead_instance_is_replaced(shop: Shop) -> None:
    shop.serving(A)
    victim = next(iter(shop.platform.processes))
    shop.platform.kill(victim)
    shop.until(lambda: victim not in shop.platform.processes and len(shop.platform.processes) == 2, 10)
    assert shop.notes("note")


def test_instances_that_fall_together_say_nothing_against_their_starting_again(shop: Shop) -> None:
    """A reboot of a large fleet is one failure, not as many as it has instances."""
    shop.serving("v1", instances=12)
    for name in list(shop.platform.processes):
        shop.platform.kill(name)
    shop.start_engine()
    shop.until(lambda: sum(i.healthy is True for i in shop.platform.observe("shop", "production")) == 12, 20)


def rebooted(shop: Shop) -> None:
    """Everything that ran is gone, and an engine is started anew."""
    shop.clock.reboot()
    for name in list(shop.platform.processes):
        shop.platform.kill(name)
    shop.start_engine()


def test_a_rollout_goes_on_after_a_reboot_though_the_candidate_takes_longer_to_start(shop: Shop) -> None:
    """That everything fell together says nothing against the candidate."""
    shop.serving(A, instances=4)
    shop.platform.behaviour(B).start_seconds = 8
    rollout = shop.deploy(B, strategy=CANARY, instances=4)
    shop.until_state(State.HOLDING)
    rebooted(shop)
    shop.until(lambda: sum(i.healthy is True for i in shop.platform.observe("shop", "production")) == 8, 20)
    assert shop.state is State.HOLDING
    assert shop.environment.rollout is not None
    assert shop.environment.rollout.id == rollout


def test_who_comes_up_first_after_a_reboot_is_not_judged_by_it(shop: Shop) -> None:
    """Until both fleets are whole again stable alone answers: no harm, and no route that is not kept."""
    shop.serving(A)
    shop.platform.behaviour(B).start_seconds = 12
    shop.deploy(B, strategy=Strategy("canary", steps=(5000,), hold_ms=30_000))
    shop.until_state(State.HOLDING)
    rebooted(shop)

    def whole() -> bool:
        judging = shop.engine.memory(KEY).judging
        assert judging is not None
        assert judging.verdict is None or judging.verdict.fault is None
        return shop.state is not State.HOLDING

    shop.until(whole, 60)
    assert shop.state is State.SHIFTING


def _rebooted_while_it_starts(shop: Shop) -> str:
    """The rollout whose candidate fell with its machine before it was up."""
    shop.serving(A)
    shop.platform.behaviour(B).start_seconds = 5
    rollout = shop.deploy(B, instances=4)
    shop.until_state(State.LAUNCHING)
    shop.tick()
    rebooted(shop)
    return rollout


def test_what_a_reboot_ended_while_it_started_is_started_again(shop: Shop) -> None:
    rollout = _rebooted_while_it_starts(shop)
    assert shop.until_over(rollout)["outcome"] == "promoted"


def test_what_a_reboot_ended_is_found_by_the_first_look_that_shows_instances(shop: Shop) -> None:
    rollout = _rebooted_while_it_starts(shop)
    shop.platform.fail = lambda call, _subject: _unseen() if call == "observe" else None
    shop.tick()
    shop.platform.fail = lambda _call, _subject: None
    assert shop.until_over(rollout)["outcome"] == "promoted"


def _unseen() -> None:
    raise Transient("platform-away", "the platform does not answer", retry_after_seconds=1.0)


def test_the_first_candidate_of_all_has_its_start_time_after_a_reboot(shop: Shop) -> None:
    """There is nothing else that could serve."""
    shop.platform.behaviour(A).start_seconds = 8
    rollout = shop.deploy(A, soak_ms=0)
    shop.until_state(State.SHIFTING)
    rebooted(shop)
    shop.router.fail = lambda call, _subject: _unseen() if call == "read" else None  # nor does the edge answer yet
    for _ in range(60):
        shop.tick()
    shop.router.fail = lambda _call, _subject: None
    assert shop.until_over(rollout)["outcome"] == "promoted"


def test_a_candidate_that_does_not_come_back_from_a_reboot_is_taken_back(shop: Shop) -> None:
    shop.serving(A)
    rollout = shop.deploy(B, strategy=CANARY)
    shop.until_state(State.HOLDING)
    shop.platform.behaviour(B).healthy = False
    rebooted(shop)
    view = shop.until_over(rollout, 60)
    assert (view["outcome"], view["exit_code"]) == ("rolled-back", 3)
    assert "does not stay up" in view["reason"]


def test_a_candidate_that_falls_again_after_a_reboot_is_taken_back_at_once(shop: Shop) -> None:
    shop.serving(A)
    rollout = shop.deploy(B, strategy=CANARY)
    shop.until_state(State.HOLDING)
    shop.platform.behaviour(B).exits = "exit 7"
    rebooted(shop)
    assert shop.until_over(rollout, 10)["outcome"] == "rolled-back"


def test_a_candidate_that_falls_alone_is_taken_back_within_seconds(shop: Shop) -> None:
    shop.serving(A)
    shop.platform.behaviour(B).start_seconds = 8
    rollout = shop.deploy(B, strategy=CANARY)
    shop.until_state(State.HOLDING)
    for name, process in list(shop.platform.processes.items()):
        if process.spec.release == B:
            shop.platform.kill(name)
    assert shop.until_over(rollout, 6)["outcome"] == "rolled-back"


def test_an_instance_that_cannot_stay_up_is_not_restarted_for_ever(shop: Shop) -> None:
    shop.serving(A)
    shop.platform.behaviour(A).exits = "exit 7"
    for name in list(shop.platform.processes):
        shop.platform.kill(name)
    for _ in range(4000):
        shop.tick(1.0)
    launched = len(shop.platform.launches)
    assert launched < 20
    for _ in range(1000):
        shop.tick(1.0)
    assert len(shop.platform.launches) == launched
    assert any("not restarted any more" in p for p in shop.engine.view(KEY)["problems"])


def test_a_drifted_instance_is_replaced_and_its_difference_is_written_down(shop: Shop) -> None:
    shop.serving(A)
    shop.router.lost = 0
    victim = next(iter(shop.platform.processes))
    shop.platform.tamper(victim, Drift("file-changed", "app/main.py", "sha256:1", "sha256:2"))
    shop.until(lambda: victim not in shop.platform.processes, 30)
    assert len(shop.platform.processes) == 2
    assert shop.router.lost == 0
    (entry,) = shop.notes("drift")
    assert "app/main.py" in entry["differences"][0]


def test_a_stranger_with_our_mark_is_retired_and_named(shop: Shop) -> None:
    shop.serving(A)
    spec = next(iter(shop.platform.processes.values())).spec
    from dataclasses import replace

    shop.platform.launch(replace(spec, id="stranger-77", fleet="r-nobody"))
    shop.until(lambda: "stranger-77" not in shop.platform.processes, 10)
    assert any(n.get("instance") == "stranger-77" for n in shop.notes("drift"))


def test_a_route_changed_by_hand_is_put_back(shop: Shop) -> None:
    shop.serving(A)
    from dataclasses import replace

    shop.until(lambda: shop.environment.served is not None)
    right = shop.router.routes["shop", "production"]
    assert shop.engine.route_drift(KEY) is None
    shop.router.routes["shop", "production"] = replace(right, listen="127.0.0.1:9")
    found = shop.engine.route_drift(KEY)
    assert found is not None
    assert found.kind == "route"
    shop.until(lambda: shop.router.routes["shop", "production"] == right, 15)
    assert any("route" in n for n in shop.notes("drift"))


def test_a_platform_that_cannot_be_observed_changes_nothing(shop: Shop) -> None:
    from rebake.errors import Transient

    shop.serving(A)

    def down(call: str, subject: str) -> None:
        if call == "observe":
            raise Transient("platform-away", "no answer", where="prod-eu", remedy="rebake doctor")

    shop.platform.fail = down
    for _ in range(50):
        shop.tick(1.0)
    assert shop.weights() == {A: 10_000}
    assert len(shop.platform.launches) == 2
    told = " ".join(shop.engine.view(KEY)["problems"])
    assert (
        "the platform cannot be observed now, and nothing is changed meanwhile: no answer [prod-eu] (rebake doctor)"
        in told
    )


def test_a_platform_that_refuses_its_login_is_told_by_the_rollout_that_waits_for_it(shop: Shop) -> None:
    shop.serving(A)
    rollout, refuses, changes = shop.deploy(B), True, list[str]()
    shop.tick()

    def login(_call: str, _subject: str) -> None:
        if refuses:
            raise Permanent("unauthorized", "the login is refused", where="prod-eu", remedy="rebake doctor")

    shop.platform.fail, shop.engine.on_change = login, changes.append
    for _ in range(20):
        shop.tick(1.0)
    assert changes == [KEY]  # whoever watches is told once
    view = shop.engine.rollout_view(KEY, rollout)
    assert view is not None
    (told,) = view["hindered"]
    assert told.endswith("the login is refused [prod-eu] (rebake doctor)")
    assert told in progress_line(view)
    refuses = False
    view = shop.until_over(rollout)
    assert (view["outcome"], view["hindered"]) == ("promoted", [])


def test_a_route_that_cannot_be_read_is_told_with_its_reason(shop: Shop) -> None:
    from rebake.errors import Transient

    shop.serving(A)

    def away(call: str, subject: str) -> None:
        if call == "read":
            raise Transient("cluster-away", "the API server refused the connection")

    shop.router.fail = away
    shop.tick(1.0)
    told = " ".join(shop.engine.view(KEY)["problems"])
    assert "the route cannot be read now, and is left as it is: the API server refused the connection" in told


def test_an_address_in_use_fails_the_rollout_with_its_sentence(shop: Shop) -> None:
    def taken(call: str, subject: str) -> None:
        if call == "apply" and shop.state is State.SHIFTING:
            raise Permanent("address-in-use", "127.0.0.1:8080 is taken by nginx", remedy="choose another")

    shop.router.fail = taken
    view = shop.until_over(shop.deploy(A))
    assert view["outcome"] == "failed"
    assert view["exit_code"] == 5
    assert "nginx" in view["reason"]


def test_down_drains_and_retires_everything(shop: Shop) -> None:
    shop.serving(A)
    shop.command("down")
    shop.until(lambda: not shop.platform.processes and ("shop", "production") not in shop.router.routes, 30)
    assert shop.environment.stable is None


@pytest.mark.parametrize(
    "state", [State.PREPARING, State.LAUNCHING, State.CHECKING, State.SHIFTING, State.HOLDING, State.SOAKING]
)
def test_a_restarted_engine_goes_on_from_any_state(shop: Shop, state: State) -> None:
    shop.serving(A)
    rollout = shop.deploy(B, strategy=CANARY, checks=(HttpCheck("smoke", "/"),), hold_back_basis_points=2000)
    shop.jobs.scripted["smoke"] = Job("done")
    for _ in range(2000):
        if any(n.get("to") == state for n in shop.notes("transition")):
            break
        shop.tick()
    shop.start_engine()
    assert shop.until_over(rollout)["outcome"] == "promoted"
    shop.until(lambda: len(shop.platform.processes) == 2)
    assert shop.stable_release == B


def test_an_intent_is_recorded_before_its_action_and_an_outcome_after(shop: Shop) -> None:
    shop.serving(A)
    seen: dict[str, list[str]] = {}
    for entry in shop.ledger.rows:
        if entry.kind in ("intent", "outcome"):
            seen.setdefault(str(entry.body["action"]), []).append(entry.kind)
    assert seen
    assert all(kinds[:2] == ["intent", "outcome"] for kinds in seen.values())


def test_a_quiet_environment_writes_nothing(shop: Shop) -> None:
    shop.serving(A)
    for _ in range(20):
        shop.tick(1.0)
    length = len(shop.ledger.rows)
    documents = dict(shop.ledger.documents)
    for _ in range(100):
        shop.tick(1.0)
    assert len(shop.ledger.rows) == length
    assert shop.ledger.documents == documents


def test_shadow_copies_requests_before_any_user_is_moved(shop: Shop) -> None:
    shop.serving(A)
    shop.deploy(B, strategy=Strategy("shadow", mirror_basis_points=2000, mirror_ms=10_000))
    shop.until_state(State.HOLDING)
    route = shop.router.routes["shop", "production"]
    assert route.mirror is not None
    assert shop.weights()[B] == 0
    shop.until(lambda: shop.weights()[B] == 10_000)
    assert shop.router.copied[route.mirror.fleet] >= 20


def test_stable_shields_the_candidate_for_as_long_as_both_are_routed(shop: Shop) -> None:
    """Also while the candidate has no users: going back then changes weights and no cluster."""
    shop.serving(A)
    shop.platform.behaviour(B).error_rate = 0.5
    rollout = shop.deploy(B, strategy=CANARY, shield=True, approval=True)
    shop.until_state(State.ASKING)
    assert shop.weights()[B] == 0
    assert shop.router.routes["shop", "production"].shield == rollout
    shop.command("approve")
    shop.until_state(State.HOLDING)
    assert shop.router.routes["shop", "production"].shield == rollout
    assert shop.until_over(rollout)["outcome"] == "rolled-back"
    shop.until(lambda: len(shop.platform.processes) == 2)
    shop.until(lambda: shop.router.routes["shop", "production"].shield is None, seconds=5)


def test_a_candidate_that_was_taken_back_is_shielded_until_it_has_drained(shop: Shop) -> None:
    """What it was dealt before, and hangs, gets its second try even after the drain that the file gives."""
    shop.serving(A)
    shop.platform.behaviour(B).error_rate = 0.5
    rollout = shop.deploy(B, strategy=CANARY, shield=True)
    shop.until_state(State.HOLDING)
    shop.router.active[rollout] = 3
    shop.until_over(rollout)
    begun = shop.clock.now()
    shop.until(lambda: not shop.environment.leaving)
    assert shop.clock.now() - begun >= 11.0, "answer_within is 10 s, drain 2 s"
    shields = [(route.shield, len(route.fleets)) for route in shop.router.history if len(route.fleets) == 2]
    assert shields[-1] == (rollout, 2)


def test_a_file_without_shield_and_a_first_release_have_none(shop: Shop) -> None:
    shop.serving(A)
    assert shop.router.routes["shop", "production"].shield is None
    shop.deploy(B, strategy=CANARY)
    shop.until_state(State.HOLDING)
    assert shop.router.routes["shop", "production"].shield is None


def test_the_judges_own_ramp_ends_at_the_hold_back(shop: Shop) -> None:
    shop.serving(A)
    rollout = shop.deploy(B, strategy=Strategy("canary", profile="fast"), hold_back_basis_points=2000)
    shop.until_state(State.SOAKING, seconds=1200)
    assert shop.weights() == {A: 2000, B: 8000}
    assert shop.until_over(rollout)["outcome"] == "promoted"


def test_going_back_to_a_route_applied_a_moment_ago_is_not_paced(shop: Shop) -> None:
    shop.serving(A)
    rollout = shop.deploy(B)
    shop.until_state(State.SOAKING)
    shop.command("undo", rollout_id="r-undo")
    assert shop.until_over(rollout, seconds=0.5)["outcome"] == "rolled-back"
    assert shop.notes("intent")[-1]["do"] == "ApplyRoute"
