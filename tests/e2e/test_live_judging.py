"""The judge on real traffic: what only records of single requests can show. `python -m benchmarks live` is the whole
form: more releases, two rates, and the simulation beside them."""

from __future__ import annotations

from typing import Any

import pytest

from rebake.tour.load import Load, Request
from tests.e2e.releases import misbehave, steady, write_release
from tests.e2e.site import SERVER, Site, until

pytestmark = pytest.mark.real

PROFILE = "    strategy: {canary: {profile: default}}\n    soak: 5m\n    shield: false\n"
STEP = "    strategy: {canary: {steps: [20%], hold: 5m}}\n    soak: 5m\n"
HALF = "    strategy: {canary: {steps: [50%], hold: 30s}}\n    soak: 5m\n"
COPIED = (
    "    strategy: {canary: {steps: [50%], hold: 5m, mirror: {share: 100%, for: 3s}}}\n"
    "    soak: 5m\n    shield: false\n"
)
PATHS = (*[Request("/")] * 9, Request("/orders/17"))


def test_one_endpoint_that_fails_is_named(site: Site) -> None:
    assert site.deploy().code == 0
    site.describe(HALF)
    site.edit("failing = ", 'failing = self.path.startswith("/orders") or ')
    with Load(site.url, 100, PATHS) as load:
        taken_back = site.deploy()
        report = load.stop()
    assert taken_back.code == 3, taken_back.err
    assert "GET /orders/{id}" in taken_back.doc["verdict"]["reason"], taken_back.doc
    assert report.lost == 0, report.losses


def test_a_release_that_crashes_costs_a_handful_of_requests_on_the_judges_own_ramp(site: Site) -> None:
    site.describe(PROFILE)
    assert site.deploy().code == 0
    write_release(site, SERVER, "crash")
    with steady(site, 100) as load:
        bad = site.deploy()
        report = load.stop()
    assert bad.code == 3, bad.err
    assert bad.doc["verdict"]["verdict"] == "harmful"
    assert 0 < report.errors <= 25  # 2 to 4; more only where this machine stands still
    assert 0 < bad.doc["requests"]["candidate"]["errors"] <= report.errors  # some may finish after the decision
    assert report.lost == 0


@pytest.mark.parametrize(("scenario", "least"), [("crash", 10), ("endpoint", 10)])
def test_a_release_that_crashes_on_real_paths_costs_no_user_anything_where_copies_come_first(
    site: Site, scenario: str, least: int
) -> None:
    """Its health check passes and its checks are good; only real users' paths fail. No shield helps."""
    site.describe(COPIED)
    assert site.deploy().code == 0
    write_release(site, SERVER, scenario)
    with Load(site.url, 100, PATHS) as load:
        bad = site.deploy()
        report = load.stop()
    assert bad.code == 3, bad.err
    assert "copied requests" in bad.doc["verdict"]["reason"], bad.doc
    assert (report.errors, report.lost) == (0, 0), report
    assert bad.doc["requests"]["candidate"] == {"total": 0, "errors": 0}
    assert bad.doc["verdict"]["copies"]["errors"] >= least


def test_a_good_release_goes_through_its_copies_to_its_users(site: Site) -> None:
    site.describe(COPIED)
    assert site.deploy().code == 0
    write_release(site, SERVER, "good", 1)
    with Load(site.url, 100, PATHS) as load:
        assert site.rebake("deploy", "production", "--detach").code == 0
        until(lambda: (site.status()["rollout"] or {}).get("route", {}).get("candidate", 0) > 0)
        rollout = until(lambda: _judged(site, 200))
        report = load.stop()
    assert rollout["verdict"]["copies"]["errors"] == 0
    assert rollout["verdict"]["copies"]["total"] >= 20
    assert (report.errors, report.lost) == (0, 0), report


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        ("hanging", "requests without an answer in time"),
        ("lost", "refusals (4xx)"),
        ("half answers", "unfinished answers"),
        ("sending away", "redirects (3xx)"),
    ],
)
def test_a_release_that_fails_its_users_without_failing_is_taken_back(site: Site, kind: str, complaint: str) -> None:
    judged = HALF + "    judge: {answer_within: 1s}\n"
    site.describe(judged)
    assert site.deploy().code == 0
    misbehave(site, kind)
    with Load(site.url, 50, (Request("/notes"),)) as load:
        taken_back = site.deploy()
        report = load.stop()
    assert taken_back.code == 3, taken_back.err
    assert complaint in taken_back.doc["verdict"]["reason"], taken_back.doc
    if kind == "hanging":  # stable answers beside it what may be sent twice
        assert (report.errors, report.lost) == (0, 0), report.statuses


def test_what_a_tester_asks_of_the_candidate_is_not_held_against_it(site: Site) -> None:
    site.describe(STEP)
    assert site.deploy().code == 0
    write_release(site, SERVER, "endpoint")
    assert site.rebake("deploy", "production", "--detach").code == 0
    until(lambda: (site.status()["rollout"] or {}).get("state") == "holding")
    answers = [site.get("/orders/17", preview=True)[0] for _ in range(20)]
    seen = [site.get("/notes")[0] for _ in range(20)]
    assert answers == [500] * 20
    assert seen == [200] * 20
    rollout = until(lambda: _judged(site, 20))
    assert rollout["requests"]["candidate"]["errors"] == 0
    assert rollout["state"] == "holding"


def _judged(site: Site, requests: int) -> dict[str, Any] | None:
    """The rollout, once the judge knows of at least so many users' requests."""
    rollout = site.status()["rollout"]
    assert rollout is not None
    found = rollout["requests"]
    return rollout if found["stable"]["total"] + found["candidate"]["total"] >= requests else None
