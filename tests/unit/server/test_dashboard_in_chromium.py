"""The dashboard in a real browser. Skips out loud where there is none."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from tests.cli.fake import (
    CANDIDATE,
    RELEASE_B,
    STABLE,
    FakeApplication,
    environment_view,
    fleet,
    rolled_back,
    rollout_view,
    served,
)

from rebake.cli.client import Client
from rebake.core.home import Home

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        CHROMIUM is None, reason="no Chromium here: apt-get install chromium to try the dashboard in it"
    ),
]
ATTACK = "<script>document.title = 'attacked'</script><img src=x onerror=\"document.title='attacked'\">"


def seen(url: str, profile: Path) -> str:
    """The page as the browser has it after its scripts ran."""
    command = [
        str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}",
        "--virtual-time-budget=3000", "--dump-dom", url,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True).stdout


def test_what_a_person_sees(tmp_path: Path) -> None:
    application = FakeApplication()
    rollout = rollout_view(verdict=rolled_back()["verdict"], evidence=[[0, 1], [1, 10], [2, 134.2]])
    application.environments = [
        environment_view(
            candidate=fleet(CANDIDATE, RELEASE_B, healthy=1),
            rollout=rollout,
            route={STABLE: 0.95, CANDIDATE: 0.05},
            problems=[ATTACK],
        ),
        environment_view(environment="empty", stable=None, route={}, last=None),
    ]
    with served(tmp_path / "home", application):
        url = Client(Home(tmp_path / "home").agent_socket).call("POST", "/v1/dashboard", {})["url"]
        page = seen(url, tmp_path / "profile")
    assert "<title>rebake</title>" in page
    assert ">live</p>" in page
    assert "guestbook · production" in page
    assert 'aria-label="stable 95%, candidate 5% of the traffic"' in page
    assert "1 of 2" in page
    assert "134 of 100 that take it back" in page
    assert "&lt;script&gt;document.title" in page
    assert "rolled-back · the candidate fails 40 %" in page
    assert "3 · 000000000000" in page
    assert "nothing serves" in page


def test_the_runs_of_a_job(tmp_path: Path) -> None:
    run = {"instance": "r-1-7", "slot": "2026-01-02T03:00:00.000Z", "cohort": "stable", "seconds": 12.5, "why": None}
    application = FakeApplication()
    application.environments = [
        environment_view(
            run_kind="job",
            routed=False,
            listen=None,
            stable=fleet(STABLE, RELEASE_B, healthy=0),
            next_run="2026-01-03T03:00:00.000Z",
            runs=[
                {**run, "outcome": "done"},
                {**run, "instance": "r-1-8", "outcome": "failed", "why": "exit 3 <b>"},
                {**run, "instance": "r-1-9", "cohort": "candidate", "outcome": None},
            ],
        )
    ]
    with served(tmp_path / "home", application):
        url = Client(Home(tmp_path / "home").agent_socket).call("POST", "/v1/dashboard", {})["url"]
        page = seen(url, tmp_path / "profile")
    told = page.partition('aria-label="Runs">')[2].partition("</ol>")[0].split("</li>")
    assert "next run" in told[0]
    assert "candidate · r-1-9 · runs for 12.5 s" in told[1]
    assert "r-1-8 · failed after 12.5 s: exit 3 &lt;b&gt;" in told[2]
    assert "stable · r-1-7 · done after 12.5 s" in told[3]
    assert "by schedule" in page
    assert "0 of 2" not in page
