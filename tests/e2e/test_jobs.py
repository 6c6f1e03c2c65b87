"""The scheduled job of `examples/almanac` under the real command line, agent and processes. No edge is needed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.site import Site, until

pytestmark = pytest.mark.real
EXAMPLE = Path(__file__).parents[2] / "examples" / "almanac"
SCHEDULE = "schedule: {every: 1m, timeout: 30s}"


class Almanac(Site):
    """The example in a folder of its own, run every second."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        shutil.rmtree(self.folder)
        shutil.copytree(EXAMPLE, self.folder, ignore=shutil.ignore_patterns("__pycache__"))
        self.change("rebake.yaml", SCHEDULE, "schedule: {every: 1s, timeout: 20s}")
        self.change("rebake.yaml", "soak: 10m", "soak: 1s")
        self.book = self.home / "data" / "almanac" / "production" / "almanac.txt"

    def change(self, name: str, before: str, after: str) -> None:
        path = self.folder / name
        text = path.read_text()
        assert before in text
        path.write_text(text.replace(before, after))

    def says(self, text: str) -> None:
        path = self.folder / "almanac" / "__main__.py"
        lines = [f'SAYS = "{text}"\n' if line.startswith("SAYS = ") else line for line in path.open()]
        path.write_text("".join(lines))

    def lines(self) -> list[str]:
        return self.book.read_text().splitlines() if self.book.exists() else []

    def runs(self) -> list[dict[str, Any]]:
        return list(self.status()["runs"])

    def has_ended(self, instance: str) -> bool:
        return any(run["instance"] == instance and run["ended"] for run in self.runs())

    def slots_in_ledger(self) -> list[str]:
        found = self.rebake("ledger", "show", "--json", "--limit", "1000").doc["entries"]
        return [e["body"]["slot"] for e in found if e["kind"] == "note" and "run" in e["body"] and "fleet" in e["body"]]


@pytest.fixture
def almanac(tmp_path: Path) -> Iterator[Almanac]:
    built = Almanac(tmp_path)
    yield built
    left = built.clear()
    assert not left, f"left running: {left}"


def test_a_job_rolls_out_by_share_of_its_runs_and_comes_back_at_a_word(almanac: Almanac) -> None:
    assert almanac.deploy("--until", "end").code == 0
    until(lambda: len(almanac.lines()) >= 2)
    assert {line.partition(" all ")[2] for line in almanac.lines()} == {"is well"}
    almanac.says("all is better")
    done = almanac.deploy("--until", "end")
    assert done.code == 0, done.err
    assert done.doc["outcome"] == "promoted"
    assert done.doc["requests"]["candidate"]["total"] >= 3
    assert any(line.endswith("all is better") for line in almanac.lines())
    shown = almanac.rebake("status", "production")
    assert "a scheduled job: shares are of its runs" in shown.out
    assert "next run" in shown.out
    undone = almanac.rebake("undo", "production", "--json")
    assert undone.code == 0, undone.err
    until(lambda: almanac.lines()[-1].endswith("all is well"))


def test_a_job_whose_runs_fail_is_taken_back_and_the_one_before_goes_on(almanac: Almanac) -> None:
    assert almanac.deploy("--until", "end").code == 0
    almanac.change("almanac/__main__.py", "    return 0\n", '    sys.exit("no ink")\n')
    done = almanac.deploy()
    assert done.code == 3, done.err
    assert "exit 1" in done.doc["reason"]
    count = len(almanac.lines())
    until(lambda: len(almanac.lines()) > count)
    assert almanac.deploy().code == 4, "it is in quarantine"


def test_a_run_outlives_its_agent_and_no_slot_is_run_twice(almanac: Almanac) -> None:
    almanac.change("almanac/__main__.py", "    return 0\n", "    import time; time.sleep(3)\n    return 0\n")
    assert almanac.deploy("--until", "end").code == 0
    for _ in range(3):
        until(lambda: [run for run in almanac.runs() if run["ended"] is None])
        under_way = next(run["instance"] for run in almanac.runs() if run["ended"] is None)
        almanac.kill_agent()
        until(partial(almanac.has_ended, under_way))
        ended = next(run for run in almanac.runs() if run["instance"] == under_way)
        assert ended["outcome"] in ("done", "unknown"), "nobody but the kernel saw how it ended"
    slots = almanac.slots_in_ledger()
    assert len(slots) == len(set(slots)) >= 3
