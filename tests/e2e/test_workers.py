"""The queue worker of `examples/postbox` under the real command line, agent and processes. No edge is needed."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.site import Site, alive, until

pytestmark = pytest.mark.real
EXAMPLE = Path(__file__).parents[2] / "examples" / "postbox"
STRATEGY = "strategy: {canary: {steps: [10%, 30%], hold: 30s}}"


class Post(Site):
    """The example in a folder of its own, and its queue."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        shutil.rmtree(self.folder)
        shutil.copytree(EXAMPLE, self.folder, ignore=shutil.ignore_patterns("__pycache__"))
        self.change("rebake.yaml", STRATEGY, "strategy: {canary: {steps: [10%, 30%], hold: 1s}}")
        self.change("rebake.yaml", "soak: 10m", "soak: 2s\n    judge: {min_requests: 3}")
        self.change("rebake.yaml", "interval: 5s", "interval: 1s, timeout: 30s")
        self.queue = self.home / "data" / "postbox" / "production" / "queue.db"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._post, daemon=True)
        self.posted = 0

    def change(self, name: str, before: str, after: str) -> None:
        path = self.folder / name
        text = path.read_text()
        assert before in text
        path.write_text(text.replace(before, after))

    def _rows(self, words: str) -> list[Any]:
        with closing(sqlite3.connect(self.queue, timeout=10)) as db, db:
            return db.execute(words).fetchall()

    def _post(self) -> None:
        while not self._stop.wait(0.1):
            self._rows(f"INSERT INTO letters (text) VALUES ('letter {self.posted}')")
            self.posted += 1

    def begin_posting(self) -> None:
        until(self.queue.exists)
        self._thread.start()

    def end_posting(self) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def stamped_by(self) -> dict[str, int]:
        return dict(self._rows("SELECT done_by, count(*) FROM letters WHERE stamp IS NOT NULL GROUP BY done_by"))

    def half_done(self) -> list[Any]:
        """Letters in the hands of somebody who is no more: a worker that was told to finish leaves none."""
        alive_now = [i["id"] for i in self.status()["instances"]]
        taken = self._rows("SELECT id, taken_by FROM letters WHERE stamp IS NULL AND taken_by IS NOT NULL")
        return [row for row in taken if row[1] not in alive_now]

    def all_done(self) -> bool:
        return self._rows("SELECT count(*) FROM letters WHERE stamp IS NULL") == [(0,)]


@pytest.fixture
def post(tmp_path: Path) -> Iterator[Post]:
    built = Post(tmp_path)
    yield built
    built.end_posting()
    left = built.clear()
    assert not left, f"left running: {left}"


def test_a_worker_is_promoted_by_canary_and_no_letter_is_lost(post: Post) -> None:
    first = post.deploy("--until", "end")
    assert first.code == 0, first.err
    post.begin_posting()
    before = {i["id"] for i in post.stable_instances()}
    post.change("postbox/__main__.py", '"first class"', '"second class"')
    done = post.deploy("--until", "end")
    assert done.code == 0, done.err
    assert done.doc["outcome"] == "promoted"
    assert done.doc["requests"]["candidate"]["total"] >= 3
    assert done.doc["requests"]["candidate"]["errors"] == 0
    until(lambda: {i["cohort"] for i in post.status()["instances"]} == {"stable"})
    view = post.status()
    assert not before & {i["id"] for i in view["instances"]}
    assert (view["listen"], view["routed"], view["stable"]["healthy"]) == (None, False, 4)
    assert post.half_done() == [], "a worker that was told to finish did the letter in its hand first"
    post.end_posting()
    until(post.all_done)
    assert sum(post.stamped_by().values()) == post.posted
    old, new = ({w for w in post.stamped_by() if (w in before) is known} for known in (True, False))
    assert old
    assert new
    for name in before:
        told = post.rebake("logs", "production", "--instance", name)
        assert f"{name} finished" in told.out
    assert not [p for p in post.processes() if b"envoy" in Path(f"/proc/{p}/cmdline").read_bytes().split(b"\0")[0]]


def test_a_worker_that_crashes_is_taken_back_by_its_exit_codes(post: Post) -> None:
    assert post.deploy("--until", "end").code == 0
    post.begin_posting()
    until(lambda: sum(post.stamped_by().values()) >= 3)
    post.change("postbox/__main__.py", "        time.sleep(WORK_SECONDS)\n", "        raise SystemExit(7)\n")
    done = post.deploy()
    assert done.code == 3, done.err
    assert done.doc["outcome"] == "rolled-back"
    assert "exit 7" in done.doc["reason"]
    until(lambda: len([i for i in post.stable_instances() if i["healthy"]]) == 4)
    refused = post.deploy()
    assert refused.code == 4, "it is in quarantine"


def test_workers_are_adopted_after_the_agent_died_and_undone_at_a_word(post: Post) -> None:
    assert post.deploy("--until", "end").code == 0
    post.change("postbox/__main__.py", '"first class"', '"second class"')
    assert post.deploy("--until", "end").code == 0
    pids = {i["pid"] for i in post.stable_instances()}
    post.kill_agent()
    assert {i["pid"] for i in post.stable_instances()} == pids
    until(lambda: post.status()["stable"]["healthy"] == 4)
    victim = post.stable_instances()[0]["pid"]
    os.kill(victim, signal.SIGKILL)
    until(lambda: not alive(victim) and post.status()["stable"]["healthy"] == 4)
    undone = post.rebake("undo", "production", "--json")
    assert undone.code == 0, undone.err
    until(lambda: {i["cohort"] for i in post.status()["instances"]} == {"stable"} and not post.status()["rollout"])
    assert post.status()["stable"]["revision"] == undone.doc["restored"]
