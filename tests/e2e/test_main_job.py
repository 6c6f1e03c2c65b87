"""The main job on real components: agent, Envoy, processes, ledger and command line."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.e2e.site import CANARY, Site, alive, until

pytestmark = pytest.mark.real


def test_from_a_folder_to_a_served_release_and_back(site: Site) -> None:
    first = site.deploy()
    assert first.code == 0, first.err
    assert first.doc["outcome"] == "promoted"
    assert first.doc["release"].startswith("sha256:")
    assert site.get()[1].startswith("one")
    with site.load() as load:
        site.edit('TEXT = "one"', 'TEXT = "two"')
        second = site.deploy()
        assert second.code == 0, second.err
        assert site.get()[1].startswith("two")
        undone = site.rebake("undo", "production", "--json")
        assert undone.code == 0, undone.err
        assert undone.doc["warm"] is True
        assert site.get()[1].startswith("one")
        report = load.stop()
    assert report.lost == 0, report.losses
    assert report.errors == 0
    status = site.status()
    assert status["stable"]["revision"] == first.doc["revision"]
    assert status["route"] == {first.doc["revision"]: 1.0}
    again = site.deploy()
    assert again.code == 4
    assert "quarantine" in again.err
    assert site.rebake("ledger", "verify").code == 0


def test_a_setting_is_a_revision_and_undo_brings_it_back(site: Site) -> None:
    site.describe("    strategy: blue-green\n    soak: 0s\n    env: {GREETING: hello}\n")
    first = site.deploy()
    site.describe("    strategy: blue-green\n    soak: 0s\n    env: {GREETING: welcome}\n")
    second = site.deploy("--until", "end")
    assert first.doc["release"] == second.doc["release"]
    assert first.doc["revision"] != second.doc["revision"]
    assert site.get()[1] == "one welcome"
    undone = site.rebake("undo", "production")
    assert undone.code == 0, undone.err
    assert "GREETING" in undone.out
    assert site.get()[1] == "one hello"


def test_a_release_that_crashes_is_taken_back_with_its_log(site: Site) -> None:
    assert site.deploy().code == 0
    site.edit('print("serving"', 'sys.exit("no table called orders"); print("serving"')
    with site.load() as load:
        bad = site.deploy()
        report = load.stop()
    assert bad.code == 3
    assert bad.doc["outcome"] == "rolled-back"
    assert "no table called orders" in bad.err
    assert report.lost == report.errors == 0
    assert site.get()[1].startswith("one")


def test_a_failing_check_keeps_every_user_away(site: Site) -> None:
    checks = "checks:\n  - {name: smoke, http: {path: /, expect_body: two}}\n"
    assert site.deploy().code == 0
    (site.folder / "rebake.yaml").write_text(checks + (site.folder / "rebake.yaml").read_text())
    site.edit('TEXT = "one"', 'TEXT = "three"')
    bad = site.deploy()
    assert bad.code == 3
    assert "smoke" in bad.doc["reason"]
    assert bad.doc["requests"]["candidate"]["total"] == 0


def test_the_judge_takes_a_failing_canary_back(site: Site) -> None:
    site.describe(CANARY)
    assert site.deploy().code == 0
    site.edit("FAIL_EVERY = 0", "FAIL_EVERY = 3")
    with site.load(150) as load:
        bad = site.deploy()
        report = load.stop()
    assert bad.code == 3, bad.err
    assert bad.doc["verdict"]["verdict"] == "harmful"
    assert 0 < bad.doc["requests"]["candidate"]["errors"] < 60
    assert "answered well by another try" in bad.doc["verdict"]["reason"]
    assert report.lost == report.errors == 0, "stable answered what the candidate failed"
    assert site.get()[1].startswith("one")


def test_a_healthy_canary_goes_through_its_steps(site: Site) -> None:
    site.describe(CANARY + "    hold_back: 20%\n")
    assert site.deploy().code == 0
    site.edit('TEXT = "one"', 'TEXT = "two"')
    with site.load(150) as load:
        good = site.deploy()
        report = load.stop()
    assert good.code == 0, good.err
    assert good.doc["requests"]["candidate"]["total"] > 20
    assert report.lost == report.errors == 0
    shares = site.status()["route"]
    assert shares[good.doc["revision"]] == pytest.approx(0.8)


def test_killing_the_agent_in_the_middle_loses_nothing(site: Site) -> None:
    site.describe(CANARY)
    assert site.deploy().code == 0
    site.edit('TEXT = "one"', 'TEXT = "two"')
    with site.load(150) as load:
        assert site.rebake("deploy", "production", "--detach").code == 0
        until(lambda: site.status()["rollout"]["state"] in ("holding", "shifting"))
        site.kill_agent()
        joined = site.deploy()
        report = load.stop()
    assert joined.code == 0, joined.err
    assert report.lost == report.errors == 0
    assert site.get()[1].startswith(("one", "two"))
    assert site.rebake("ledger", "verify").code == 0
    assert len([i for i in site.status()["instances"] if i["state"] != "exited"]) == 4


def test_stop_takes_a_rollout_back(site: Site) -> None:
    site.describe("    strategy: {canary: {steps: [10%], hold: 10m}}\n")
    assert site.deploy().code == 0
    site.edit('TEXT = "one"', 'TEXT = "two"')
    waiting = site.popen("deploy", "production", "--json")
    until(lambda: (site.status()["rollout"] or {}).get("state") == "holding")
    assert site.rebake("stop", "production").code == 0
    out, err = waiting.communicate(timeout=30)
    assert waiting.returncode == 6, err
    assert '"stopped"' in out
    assert site.rebake("stop", "production").code == 0
    assert site.get()[1].startswith("one")


def test_two_terminals_at_once(site: Site) -> None:
    site.describe("    strategy: {canary: {steps: [10%], hold: 10m}}\n")
    assert site.deploy().code == 0
    site.edit('TEXT = "one"', 'TEXT = "two"')
    first = site.popen("deploy", "production", "--json")
    until(lambda: (site.status()["rollout"] or {}).get("state") == "holding")
    site.describe("    strategy: blue-green\n    env: {GREETING: second}\n")
    second = site.deploy()
    _, err = first.communicate(timeout=30)
    assert second.code == 0, second.err
    assert first.returncode == 6
    assert "superseded" in err
    assert site.get()[1] == "two second"


def test_a_dead_instance_and_a_dead_edge_come_back(site: Site) -> None:
    assert site.deploy().code == 0
    victim = site.stable_instances()[0]
    os.kill(victim["pid"], signal.SIGKILL)
    until(lambda: victim["id"] not in [i["id"] for i in site.stable_instances()])
    until(lambda: site.status()["stable"]["healthy"] == 2)
    (envoy,) = [p for p in site.processes() if b"envoy" in Path(f"/proc/{p}/cmdline").read_bytes().split(b"\0")[0]]
    os.kill(envoy, signal.SIGKILL)
    until(lambda: not alive(envoy))
    until(lambda: site.get()[0] == 200, 5)


def test_a_file_edited_by_hand_is_found_and_its_instances_are_replaced(site: Site) -> None:
    assert site.deploy().code == 0
    before = {i["id"] for i in site.stable_instances()}
    file = Path(f"/proc/{site.stable_instances()[0]['pid']}/cwd/server.py").resolve()
    file.chmod(0o644)
    file.write_text(file.read_text().replace("one", "hacked"))
    with site.load() as load:
        until(lambda: before.isdisjoint(i["id"] for i in site.stable_instances()), 60)
        until(lambda: site.status()["stable"]["healthy"] == 2)
        report = load.stop()
    assert report.lost == 0, report.losses
    assert site.get()[1].startswith("one")
    entries = site.rebake("ledger", "show", "--json", "--limit", "10000").doc["entries"]
    assert any("server.py" in str(e["body"]) for e in entries if e["kind"] == "drift")
    assert site.rebake("drift", "production", "--json").doc["drift"] == []


def test_an_address_in_use_ends_in_a_sentence(site: Site) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        site.describe("    strategy: blue-green\n", port=str(port))
        done = site.deploy()
    assert done.code == 5
    assert str(port) in done.err
    assert "next:" in done.err


def test_mistakes_in_the_file_are_told_at_once(site: Site) -> None:
    site.describe("    stratgy: blue-green\n    soak: 10\n")
    done = site.rebake("deploy", "production")
    assert done.code == 2
    assert "strategy" in done.err
    assert "soak" in done.err


def test_a_release_that_did_not_succeed_in_staging_is_refused(site: Site) -> None:
    other = f"  staging:\n    platform: local\n    instances: 1\n    listen: 127.0.0.1:{site.port + 1}\n"
    site.describe("    after: staging\n" + other)
    done = site.deploy()
    assert done.code == 4
    assert "staging" in done.err
    assert site.rebake("status", "production", "--json").doc["stable"] is None
