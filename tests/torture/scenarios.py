"""What else may die, stop or vanish on a machine: the edge, instances, the machine itself, a command in the middle.

Each scenario is a function without arguments that tells its findings; `SCENARIOS` names them all.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from rebake.tour.load import Report
from tests.e2e.site import until
from tests.torture.audit import broken_rules
from tests.torture.ground import Findings, Ground, back_within, ground, unserved
from tests.torture.kills import AT_ONCE, HELD, QUICK
from tests.torture.places import clock, disk, read_only

PATIENCE_SECONDS = 300.0
"""Nothing may hang; how fast it goes is measured where that is asked."""
KILL_BOUND = 150
"""Requests that one kill of Envoy may cost at 100 a second: what is in flight, and at most a second and a half away.
While no agent lives nobody starts Envoy: that time is counted on top."""


def begun(site: Ground, more: str = AT_ONCE) -> None:
    """A first release in service."""
    site.source("v0")
    site.describe(more)
    done = site.deploy()
    assert done.code == 0, done.err


def held(site: Ground, text: str = "v1") -> None:
    """A rollout under way that stays where it is, with users on both fleets."""
    site.source(text)
    site.describe(HELD)
    assert site.insist("deploy", "production", "--detach").code == 0
    until(lambda: _state(site) == "holding", PATIENCE_SECONDS)


def _state(site: Ground) -> str:
    rollout = site.remembered().rollout
    return str(rollout.state) if rollout else ""


def concluded(findings: Findings, site: Ground, report: Report | None = None, *, allowed: int = 0) -> Findings:
    """What every scenario demands at its end. `report`: of the users, where there were any."""
    findings.violations += [*site.calm(), *broken_rules(site.entries()), *site.swept()]
    if report is not None:
        findings.count(report)
        lost = unserved(report)
        findings.demand(lost <= allowed, f"lost {lost} requests, allowed {allowed}")
    return findings


def edge() -> Findings:
    """SIGKILL of Envoy: with the agent alive, again and again, and with the agent dead as well."""
    findings = Findings("kills of Envoy")
    backs, restarts, away = [], [], 0.0
    with ground() as site:
        begun(site)
        chance = random.Random(5)
        with site.load() as load:
            for _ in range(6):
                time.sleep(chance.uniform(0.3, 2.0))
                now = time.monotonic()
                site.kill(*site.envoys())
                backs.append(back_within(load, now))
            lost_each = unserved(load.report()) / 6
            for _ in range(2):
                site.kill_holder()
                site.kill(*site.envoys())
                now = time.monotonic()
                site.rebake("agent", "start")
                started = time.monotonic()
                away += started - now
                restarts.append(back_within(load, now) - (started - now))
            report = load.stop()
        findings.figures = {
            "kills": 8,
            "back_s": [round(b, 2) for b in backs],
            "after_agent_start_s": [round(max(0.0, r), 2) for r in restarts],
            "lost_a_kill": round(lost_each, 1),
        }
        findings.demand(max(backs) <= 1.0, f"Envoy was back after {max(backs):.2f}s")
        findings.demand(max(restarts) <= 1.0, f"Envoy was back {max(restarts):.2f}s after the agent")
        findings.demand(lost_each <= KILL_BOUND, f"{lost_each} requests a kill")
        return concluded(findings, site, report, allowed=8 * KILL_BOUND + round(100 * away))


def _replaced(site: Ground, victim: int) -> bool:
    return victim not in site.instances() and len(site.instances()) == 4


def instances() -> Findings:
    """SIGKILL of instances: one after the other, then all at once; twelve of them, so that no count gives up."""
    findings = Findings("kills of instances")
    with ground() as site:
        site.source("v0")
        site.describe(AT_ONCE, **{"instances: 2": "instances: 4"})
        assert site.deploy().code == 0
        chance = random.Random(6)
        with site.load() as load:
            slowest = 0.0
            for _ in range(8):
                victim = chance.choice(sorted(site.instances()))
                site.kill(victim)
                began = time.monotonic()
                until(partial(_replaced, site, victim), PATIENCE_SECONDS)
                slowest = max(slowest, time.monotonic() - began)
            one_by_one = unserved(load.report())
            site.kill(*site.instances())
            began = time.monotonic()
            back = back_within(load, began, quiet=3.0, seconds=PATIENCE_SECONDS)
            until(lambda: len(site.instances()) == 4, PATIENCE_SECONDS)
            report = load.stop()
        findings.figures = {
            "kills": 12,
            "slowest_replacement_s": round(slowest, 1),
            "lost_one_by_one": one_by_one,
            "all_at_once_back_s": round(back, 1),
        }
        findings.demand(one_by_one <= 8, f"{one_by_one} requests lost while three of four instances served")
        return concluded(findings, site, report, allowed=one_by_one + round(100 * back) + 50)


def reboot(count: int = 12) -> Findings:
    """All processes gone at once in the middle of a rollout, and their numbers given to others; the agent started."""
    findings = Findings("reboot")
    with ground() as site, _bystander() as other:
        site.source("v0")
        site.describe(AT_ONCE, **{"instances: 2": f"instances: {count}"})
        assert site.deploy().code == 0
        held(site)
        site.kill_everything()
        for file in site.layout.instances.glob("*/pid.json"):
            file.chmod(0o600)
            doc = json.loads(file.read_text())
            file.write_text(json.dumps({**doc, "pid": other.pid, "boot": "00000000-0000-0000-0000-000000000000"}))
        began = time.monotonic()
        site.rebake("agent", "start")
        until(lambda: site.get()[0] == 200, PATIENCE_SECONDS)
        findings.figures["served_again_s"] = round(time.monotonic() - began, 1)
        until(lambda: _all_healthy(site), PATIENCE_SECONDS)
        findings.figures["whole_again_s"] = round(time.monotonic() - began, 1)
        findings.figures["rollout"] = _state(site)
        findings.demand(_state(site) in ("holding", "shifting"), f"the rollout did not go on: {site.brief()}")
        assert site.insist("stop", "production").code == 0
        findings.demand(other.poll() is None, "a process that only got a number of ours was killed")
        return concluded(findings, site)


def _all_healthy(site: Ground) -> bool:
    """Both fleets are whole; or there is no candidate any more, which is told after this."""
    fleets = [fleet for fleet in map(site.status().get, ("stable", "candidate")) if fleet is not None]
    return all(fleet["healthy"] == fleet["instances"] for fleet in fleets)


@contextlib.contextmanager
def _bystander() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def frozen() -> Findings:
    """The agent stands still for longer than its lease, then goes on; and one that stands still can be ended."""
    findings = Findings("SIGSTOP of the agent")
    with ground() as site:
        begun(site)
        with site.load() as load:
            held(site)
            agent = site.holder or 0
            os.kill(agent, signal.SIGSTOP)
            time.sleep(17.0)  # the lease is 15 s
            os.kill(agent, signal.SIGCONT)
            assert site.insist("stop", "production").code == 0
            findings.violations += site.calm()
            os.kill(site.holder or 0, signal.SIGSTOP)
            began = time.monotonic()
            done = site.rebake("agent", "stop")
            findings.figures["stopped_agent_ends_s"] = round(time.monotonic() - began, 1)
            findings.demand(done.code == 0, f"agent stop: {done.err}")
            site.source("v2")
            site.describe(QUICK)
            findings.demand(site.deploy().code == 0, "no deploy after it")
            report = load.stop()
        return concluded(findings, site, report)


def launches(times: int = 10) -> Findings:
    """SIGKILL of the agent between an instance's intent, fork and record; every second time of the fork as well."""
    findings = Findings("kills around the start of an instance")
    with ground() as site:
        begun(site)
        caught = 0
        slowest = 0.0
        with site.load() as load:
            for number in range(times):
                site.source(f"v{number + 1}")
                site.describe(QUICK)
                typed = site.popen("deploy", "production", "--json")
                began = time.monotonic()
                if _kill_at_intent(site, with_stub=number % 2 == 1, unborn=number % 4 > 1):
                    caught += 1
                err = typed.communicate(timeout=PATIENCE_SECONDS)[1]
                slowest = max(slowest, time.monotonic() - began)
                findings.demand(typed.returncode == 0, f"{number}: deploy ended with {typed.returncode}: {err[-500:]}")
                findings.violations += site.calm()
                if findings.violations:
                    break  # what is left over now is left over after each of the next ones, too
            report = load.stop()
        findings.figures = {"kills": number + 1, "before_the_record": caught, "slowest_deploy_s": round(slowest, 1)}
        return concluded(findings, site, report)


def _kill_at_intent(site: Ground, *, with_stub: bool, unborn: bool) -> bool:
    """Kill the agent as soon as an instance's folder appears. True when its process had not recorded itself yet.

    Args:
        with_stub: end the process that was just started, too.
        unborn: while the folder is made, before it stands in its place.
    """
    before, deadline = site.folders(), time.monotonic() + PATIENCE_SECONDS
    while not (found := {name for name in site.folders() - before if unborn or not name.startswith(".")}):
        assert time.monotonic() < deadline, "no instance was launched"
    site.kill_holder()
    folder = site.layout.instances / min(found)
    early = not (folder / "pid.json").exists()
    if with_stub:
        site.kill(*(p for p in site.processes() if str(folder) in Path(f"/proc/{p}/cmdline").read_text()))
    return early


def bakes(times: int = 12) -> Findings:
    """SIGKILL of a command in the middle of a bake, and of a collection."""
    findings = Findings("kills of a bake and of gc")
    chance = random.Random(9)
    with ground() as site:
        begun(site)
        for number in range(times):
            site.write("data.bin", str(number) * (4 << 20))
            _cut_off(site.popen("bake"), chance.uniform(0.05, 0.6))
        findings.demand(site.rebake("bake").code == 0, "no bake after the kills")
        _age(site)
        for _ in range(times):
            _cut_off(site.popen("gc"), chance.uniform(0.1, 0.6))
        left = [p.name for p in (site.layout.store / "tmp").glob("*")] if site.rebake("gc").code == 0 else ["gc fails"]
        findings.demand(not left, f"left in the store's tmp: {left}")
        site.source("v1")
        findings.demand(site.deploy().code == 0, "no deploy after the kills")
        findings.figures = {"kills": 2 * times}
        return concluded(findings, site)


def _cut_off(process: subprocess.Popen[str], after: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=after)
    process.kill()
    process.communicate()


def _age(site: Ground) -> None:
    """Make everything in the store older than the grace that a collection gives."""
    for folder, _, names in os.walk(site.layout.store):
        for name in names:
            os.utime(Path(folder, name), (1e9, 1e9), follow_symlinks=False)


SCENARIOS: Mapping[str, Callable[[], Findings]] = {
    "edge": edge,
    "instances": instances,
    "reboot": reboot,
    "frozen": frozen,
    "launches": launches,
    "bakes": bakes,
    "disk": disk,
    "read-only": read_only,
    "clock": clock,
}
