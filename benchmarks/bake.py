"""How long a bake takes, against `docker build` with BuildKit and against `tar | sha256sum` of the same tree.

    python -m benchmarks.bake [--quick] [--json]

The tree: the installed dependencies of datasette, django, flask and gunicorn, and a copy of django as the application,
without bytecode; made once below the temporary folder (needs an index of Python packages). Peer: a Dockerfile of two
COPY lines on `FROM scratch`, by an engine of our own (root and Debian's `docker.io`); its caches are emptied before
each cold run. Every figure is the median of its runs, ours and theirs taken in turn, each begun on a quiet machine:
what ran before has reached the disk and ended its work. Ends with exit code 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rebake.bake.baker import Baker
from rebake.bake.builders.files import FilesBuilder
from rebake.bake.builders.python import PythonBuilder
from rebake.bake.memoising import DiskMemo
from rebake.bake.ports import BakeRequest, BakeResult
from rebake.bake.tools import SystemTools
from rebake.release.manifest import RunContract
from rebake.release.store import Store
from rebake.testing.docker_engine import DockerEngine, NoEngine

PACKAGES = ("datasette", "django", "flask", "gunicorn")
COPIES = 2
"""The application is django this many times over, so that the tree is about as large as the one the bars come from."""
DOCKERFILE = "FROM scratch\nCOPY deps /deps\nCOPY app /app\n"
COLD_BAR, CHANGED_BAR, UNCHANGED_SECONDS = 0.25, 0.1, 0.1
CHANGED = "app/copy0/django/http/request.py"
Row = dict[str, Any]
FRESH = """
import sys
from pathlib import Path
from rebake.bake.baker import Baker
from rebake.bake.builders.files import FilesBuilder
from rebake.bake.ports import BakeRequest
from rebake.release.manifest import RunContract
from rebake.release.store import Store
request = BakeRequest(
    "bench", "files", Path(sys.argv[2]), RunContract(("python", "-m", "app"), 8080), exclude=("lock",)
)
Baker(Store(Path(sys.argv[1])), [FilesBuilder()]).bake(request, lambda line: None)
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one cold run and fewer others")
    parser.add_argument("--json", action="store_true", help="the rows as one JSON array, nothing else")
    given = parser.parse_args()
    rows = run(given.quick)
    print(json.dumps(rows, indent=1) if given.json else table(rows))
    return 1 if any(row["ok"] is False for row in rows) else 0


def table(rows: list[Row]) -> str:
    lines = [f"{'figure':<58}{'value':>11}{'peer':>11}{'ratio':>8}{'bar':>8}"]
    for row in rows:
        peer = "-" if row["peer"] is None else f"{row['peer']:.3f} {row['unit']}"
        ratio = "-" if row["ratio"] is None else f"{row['ratio']:.3f}"
        verdict = {True: "", False: "  MISSED", None: ""}[row["ok"]]
        value = f"{row['value']:.3f} {row['unit']}" if row["unit"] == "s" else f"{row['value']:.0f} {row['unit']}"
        lines.append(f"{row['figure']:<58}{value:>11}{peer:>11}{ratio:>8}{row['bar'] or '-':>8}{verdict}")
    return "\n".join(lines)


def run(quick: bool) -> list[Row]:
    """Measure everything; one row per figure: value, unit, peer, ratio (value / peer), bar, ok (None: no bar)."""
    tree = prepare()
    rounds = 1 if quick else 3
    with tempfile.TemporaryDirectory(prefix="rebake-bench-") as work, engine() as docker:
        ours, theirs = _in_turn(tree, Path(work), docker, rounds)
        tar = median(lambda: shell(f"tar -cf - -C {tree} app deps | sha256sum"), 3)
        locked = _locked(Path(work), tree)
        fresh = median(lambda: _fresh_process(tree, Path(work)), 3)
    return _rows(Measured(ours, theirs, locked, tar, fresh), tree)


def _in_turn(
    tree: Path, work: Path, docker: list[str] | None, rounds: int
) -> tuple[dict[str, float], dict[str, float] | None]:
    """Seconds by case, ours and BuildKit's, in alternation."""
    ours: dict[str, list[float]] = {"cold": [], "changed": [], "unchanged": []}
    theirs: dict[str, list[float]] = {"cold": [], "changed": [], "unchanged": []}
    for number in range(rounds):
        store = Store(work / f"store{number}")
        ours["cold"].append(_bake(store, tree))
        _docker_cold(docker, tree, theirs)
        for _ in range(3):
            _touch_up(tree)
            ours["changed"].append(_bake(store, tree))
            _docker(docker, tree, theirs, "changed")
            ours["unchanged"].append(_bake(store, tree))
            _docker(docker, tree, theirs, "unchanged")
    result = {case: statistics.median(times) for case, times in ours.items()}
    return result, {case: statistics.median(times) for case, times in theirs.items()} if docker else None


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds: by case for ours (both builders) and BuildKit's, of `tar`, and of a fresh process."""

    ours: dict[str, float]
    theirs: dict[str, float] | None
    locked: dict[str, float]
    tar: float
    fresh: float


def _rows(found: Measured, tree: Path) -> list[Row]:
    ours, locked, tar = found.ours, found.locked, found.tar
    peer = found.theirs or {}
    rows = [
        row("bake: files of the tree", count(tree), "", None, None),
        row("bake: size of the tree", size(tree) / 1e6, "MB", None, None),
        row("bake, cold (BuildKit)", ours["cold"], "s", peer.get("cold"), COLD_BAR),
        row("bake, one changed file (BuildKit)", ours["changed"], "s", peer.get("changed"), CHANGED_BAR),
        row("bake, nothing changed (BuildKit)", ours["unchanged"], "s", peer.get("unchanged"), None),
        row("bake, cold (tar | sha256sum)", ours["cold"], "s", tar, None),
        row("bake, one changed file (tar | sha256sum)", ours["changed"], "s", tar, None),
        row("bake, nothing changed, in a fresh process", found.fresh, "s", None, None),
        row("bake, python builder from a hashed lock, cold", locked["cold"], "s", peer.get("cold"), COLD_BAR),
        row("bake, python builder, one changed file", locked["changed"], "s", peer.get("changed"), CHANGED_BAR),
        row("bake, python builder, nothing changed", locked["unchanged"], "s", peer.get("unchanged"), None),
    ]
    for item in rows:
        if "nothing changed" in item["figure"] and "process" not in item["figure"]:
            item |= {"bar": f"{UNCHANGED_SECONDS} s", "ok": item["value"] <= UNCHANGED_SECONDS}
    return rows


def row(figure: str, value: float, unit: str, peer: float | None, bar: float | None) -> Row:
    ratio = value / peer if peer else None
    met = None if bar is None or ratio is None else ratio <= bar
    return {"figure": figure, "value": value, "unit": unit, "peer": peer, "ratio": ratio, "bar": bar, "ok": met}


# -- the tree --------------------------------------------------------------------------------------------------------


def prepare() -> Path:
    """The tree, made once: `deps` and `app`, and beside it the hashed lock of the dependencies."""
    tree = Path(tempfile.gettempdir()) / f"rebake-bench-tree-{os.getuid()}"
    if not (tree / "Dockerfile").exists():
        shutil.rmtree(tree, ignore_errors=True)
        say(f"making the tree in {tree}")
        (tree / "lock").mkdir(parents=True)
        (tree / "lock" / "requirements.in").write_text("\n".join(PACKAGES) + "\n")
        uv = [SystemTools().path("uv"), "pip"]
        compiled = ["--generate-hashes", "-q", "-o", str(tree / "lock/requirements.txt")]
        subprocess.run([*uv, "compile", str(tree / "lock/requirements.in"), *compiled], check=True)
        target = ["--target", str(tree / "deps"), "--python", sys.executable, "--link-mode", "copy", "-q"]
        subprocess.run([*uv, "install", *target, "-r", str(tree / "lock/requirements.txt")], check=True)
        for number in range(COPIES):
            shutil.copytree(tree / "deps" / "django", tree / "app" / f"copy{number}" / "django")
        (tree / ".dockerignore").write_text("lock\n")
        (tree / "Dockerfile").write_text(DOCKERFILE)
        os.sync()
        time.sleep(2.1)  # a file younger than this is read again by the next bake; a person's tree is older
    return tree


def count(tree: Path) -> int:
    return sum(len(files) for folder in ("app", "deps") for _, _, files in os.walk(tree / folder))


def size(tree: Path) -> int:
    return sum(p.lstat().st_size for folder in ("app", "deps") for p in (tree / folder).rglob("*") if p.is_file())


def _touch_up(tree: Path) -> None:
    """Change one file of the application."""
    with (tree / CHANGED).open("a") as file:
        file.write(f"# {time.time_ns()}\n")


# -- ours ------------------------------------------------------------------------------------------------------------


def request(tree: Path, builder: str = "files") -> BakeRequest:
    return BakeRequest("bench", builder, tree, RunContract(("python", "-m", "app"), 8080), exclude=("lock",))


def _silent(line: str) -> None:
    del line


def _bake(store: Store, tree: Path) -> float:
    return seconds(lambda: Baker(store, [FilesBuilder()]).bake(request(tree), _silent))


def _locked(work: Path, tree: Path) -> dict[str, float]:
    """The same by the python builder: uv installs from the hashed lock, its own cache warm, and only code changes."""
    source, store = work / "locked", Store(work / "store-locked")
    shutil.copytree(tree / "app", source / "app")
    shutil.copy(tree / "lock" / "requirements.txt", source)
    memo = DiskMemo(store.cache)

    def bake() -> BakeResult:
        return Baker(store, [PythonBuilder(SystemTools(), memo)]).bake(request(source, "python"), _silent)

    time.sleep(2.1)  # the copy is older than the file system's clock is coarse, as a person's tree is
    cold = seconds(bake)
    changed, unchanged = [], []
    for _ in range(3):
        _touch_up(source)
        changed.append(seconds(bake))
        unchanged.append(seconds(bake))
    return {"cold": cold, "changed": statistics.median(changed), "unchanged": statistics.median(unchanged)}


def _fresh_process(tree: Path, work: Path) -> None:
    """Nothing changed, with the interpreter's start and every import."""
    subprocess.run([sys.executable, "-c", FRESH, str(work / "store0"), str(tree)], check=True)


# -- the peer --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def engine() -> Iterator[list[str] | None]:
    """The command that builds with BuildKit, by an engine of our own without network; None where none can be had."""
    try:
        started = DockerEngine()
    except NoEngine as absent:
        say(f"SKIPPED: the figures beside BuildKit: {absent}")
        yield None
        return
    with started:
        yield started.command


def _docker(docker: list[str] | None, tree: Path, times: dict[str, list[float]], case: str) -> None:
    if docker:
        build = [*docker, "build", "-q", "-t", "rebake-bench", "."]
        env = {**os.environ, "DOCKER_BUILDKIT": "1"}
        settle()
        begun = time.monotonic()
        subprocess.run(build, cwd=tree, env=env, check=True, capture_output=True)
        times[case].append(time.monotonic() - begun)


def _docker_cold(docker: list[str] | None, tree: Path, times: dict[str, list[float]]) -> None:
    if docker:
        subprocess.run([*docker, "rmi", "-f", "rebake-bench"], capture_output=True, check=False)
        subprocess.run([*docker, "builder", "prune", "-af"], capture_output=True, check=True)
        _docker(docker, tree, times, "cold")


# -- measuring -------------------------------------------------------------------------------------------------------


def seconds(work: Callable[[], object]) -> float:
    settle()
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def settle() -> None:
    """Neither side pays for the other: what was written has reached the disk, and what still works behind a finished
    build (the engine tidies up for some tenths of a second) has ended; at most 10 s are waited for the quiet."""
    os.sync()
    for _ in range(50):
        busy, total = _clock_ticks()
        time.sleep(0.2)
        busier, later = _clock_ticks()
        if busier - busy <= 0.05 * (later - total):
            return


def _clock_ticks() -> tuple[int, int]:
    """Busy and all clock ticks of all processors since the start. Source: proc(5), `stat`: user, nice, system, idle…"""
    ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def median(work: Callable[[], object], runs: int) -> float:
    return statistics.median(seconds(work) for _ in range(runs))


def shell(command: str) -> None:
    subprocess.run(command, shell=True, check=True, capture_output=True)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
