"""The ground that torture happens on: one real service under real load, and every look at it that needs no agent.

What is looked at is the machine and the files themselves (processes, folders, Envoy's own word, the database), because
an agent that is dead or lies cannot be asked.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from rebake.core.agent_lock import lock_holder
from rebake.core.codec import load
from rebake.core.home import Home
from rebake.ledger.database import open_ledger
from rebake.ledger.ports import Entry
from rebake.release.store import Store
from rebake.rollout.world import Environment
from rebake.tour.load import Load, Report, Request
from rebake.traffic.envoy import admin
from rebake.traffic.envoy.process import EdgeSettings, EnvoyProcess
from tests.e2e.site import SERVER, Done, Site, alive, until

KEY = "shop/production"
TAG = "x-shop"
"""Header with which every answer of the service names its release; what the edge answers itself has none."""
TAGGED = SERVER.replace(
    '        self.send_header("Content-Length"',
    f'        self.send_header("{TAG}", TEXT)\n        self.send_header("Content-Length"',
)
assert TAGGED != SERVER


class Skip(Exception):
    """This machine lacks something that the scenario needs."""


@dataclass
class Findings:
    """What a scenario measured, and what did not hold."""

    name: str
    figures: dict[str, Any] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    def demand(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.violations.append(otherwise)

    def count(self, report: Report) -> None:
        self.figures |= {"requests": report.sent, "lost": unserved(report)}

    def line(self) -> str:
        told = ", ".join(f"{name} {value}" for name, value in self.figures.items())
        return f"{'held' if not self.violations else 'BROKEN'}: {self.name}: {told}"


def was_interrupted(done: Done) -> bool:
    """Whether a command ended because its agent did, or had no time: a person types it again."""
    return any(f"[{code}" in done.err for code in ("agent-", "not-done-yet", "ledger-busy"))


def unserved(report: Report) -> int:
    """Requests that got no answer, or one that the edge made up in the service's place."""
    return report.lost + report.answered - sum(tag.answered for tag in report.tags.values())


class Ground(Site):
    """A `Site` that is looked at without its agent, and whose processes are killed. `keys`: its environments."""

    keys: tuple[str, ...] = (KEY,)

    def __init__(self, root: Path, home: Path | None = None) -> None:
        super().__init__(root)
        if home is not None:
            self.home = home
            self.environ["REBAKE_HOME"] = str(home)
        self.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # nobody's agent compiles all of its code at each start
        self.layout = Home(self.home)

    # What the developer does

    def source(self, text: str, *, crash: bool = False, fail_every: int = 0) -> None:
        """The service's whole source: a release that answers with `text`, ends at once, or fails every nth request."""
        code = TAGGED.replace('TEXT = "one"', f"TEXT = {text!r}").replace(
            "FAIL_EVERY = 0", f"FAIL_EVERY = {fail_every}"
        )
        self.write(
            "server.py", code.replace('print("serving"', 'sys.exit("no table"); print("serving"') if crash else code
        )

    def load(self, rate: float = 100.0, path: str = "/") -> Load:
        return Load(self.url, rate, (Request(path),), tag_header=TAG)

    def crowd(self) -> Sequence[Load]:
        """Everybody who uses the service while it is tortured."""
        return [self.load()]

    def insist(self, *words: str, tries: int = 20) -> Done:
        """A command that may be repeated, typed until no kill of the agent interrupts it."""
        done = self.rebake(*words)
        for _ in range(tries):
            if done.code in (0, 3, 4, 6) or not was_interrupted(done):
                break
            done = self.rebake(*words)
        return done

    # Looks that need no agent

    def entries(self) -> Sequence[Entry]:
        with self._ledger() as ledger:
            found: Sequence[Entry] = ledger.entries(limit=1_000_000)
            return found

    def remembered(self, key: str | None = None) -> Environment:
        """An environment (the first, unless it is named) as the ledger holds it."""
        with self._ledger() as ledger:
            doc = ledger.get("environment", key or self.keys[0])
        assert doc is not None
        return load(Environment, doc)

    def all_remembered(self) -> list[Environment]:
        return [self.remembered(key) for key in self.keys]

    @contextmanager
    def _ledger(self) -> Iterator[Any]:
        ledger = open_ledger(self.layout.database)
        try:
            yield ledger
        finally:
            ledger.close()

    def settled(self) -> bool:
        """Nothing is under way or asked for, and the fleets in service run in their whole size, healthy and alone."""
        with self._ledger() as ledger:
            asked = ledger.list("command")
        found = self.all_remembered()
        if asked or any(e.rollout or e.queue or e.leaving or e.stable is None for e in found):
            return False
        wanted = sum(e.stable.plan.instances for e in found if e.stable is not None)
        return not self.foreign() and len(self.instances()) == wanted

    def healthy(self) -> int:
        """Healthy instances of all stable fleets, as the agent tells it."""
        names = [key.rpartition("/")[2] for key in self.keys]
        return sum(self.rebake("status", name, "--json").doc["stable"]["healthy"] for name in names)

    @property
    def holder(self) -> int | None:
        """The agent's pid; 0 while it only starts."""
        return lock_holder(self.layout.agent_lock)

    def envoys(self) -> list[int]:
        return [running.pid for running in self._edge().find()]

    def _edge(self) -> EnvoyProcess:
        return EnvoyProcess(self.layout, EdgeSettings())

    def clusters(self) -> set[str]:
        """Fleets that Envoy itself knows, by the last part of their cluster's name."""
        found = self._edge().find()
        if not found:
            return set()
        with admin.AdminClient(found[0].admin).session() as session:
            return {name.split("/")[2] for name in session.ask(admin.hosts(".*")) if name.count("/") >= 2}

    def instances(self) -> dict[int, str]:
        """Live processes that call themselves an instance of this home: pid to name; children of one count as one."""
        found: dict[int, str] = {}
        for pid in self.processes():
            name = _environ(pid).get("REBAKE_INSTANCE")
            if name and _leads(pid):
                found[pid] = name
        return found

    def folders(self) -> set[str]:
        """Instance folders, vanished ones that were not swept included."""
        kept = {".logs"}
        with contextlib.suppress(FileNotFoundError):
            return {entry.name for entry in os.scandir(self.layout.instances)} - kept
        return set()

    def half_unpacked(self) -> list[str]:
        """Folders of an unpacking that a kill cut off."""
        found = (self.layout.store / "unpacked").glob("*/.*.*")
        return [str(path) for path in found if path.is_dir()]

    def foreign(self) -> list[str]:
        """What no view accounts for: instances of no fleet, folders, clusters, a second Envoy or agent, leases."""
        fleets = [
            fleet
            for e in self.all_remembered()
            for fleet in (e.stable, e.candidate, *(gone.fleet for gone in e.leaving))
        ]
        known = {fleet.id for fleet in fleets if fleet is not None}
        mine = self.instances()
        found = [f"process {p} of {n}" for p, n in mine.items() if n.rpartition("-")[0] not in known]
        doubled = {n for n in mine.values() if list(mine.values()).count(n) > 1}
        found += [f"two processes of {name}" for name in sorted(doubled)]
        found += [f"folder {name}" for name in sorted(self.folders()) if name.rpartition("-")[0] not in known]
        with contextlib.suppress(Exception):
            found += [f"Envoy's cluster {name}" for name in sorted(self.clusters() - known)]
        if len(self.envoys()) > 1:
            found.append(f"Envoys {self.envoys()}")
        with self._ledger() as ledger, ledger._reading() as connection:
            leases = [row[0] for row in connection.exec_driver_sql("SELECT key FROM leases")]
        found += [f"lease of {key}" for key in leases if key not in self.keys]
        return found

    def quarantined(self) -> frozenset[str]:
        with self._ledger() as ledger:
            return frozenset(str(doc["revision"]) for _, doc in ledger.list("quarantine"))

    def brief(self) -> str:
        """Where everything is, for a sentence about what did not hold."""
        told = [_brief(environment) for environment in self.all_remembered()]
        return f"{'; '.join(told)}, {self.instances()}, foreign {self.foreign()}"

    def strays(self) -> list[str]:
        """Live processes of this home that are neither instances nor Envoy nor the agent nor ours."""
        known = {*self.instances(), *self.envoys(), self.holder or 0}
        return [f"process {p}: {_command(p)}" for p in self.processes() if p not in known and not _is_child(p, known)]

    # What is demanded after harm

    def calm(self, seconds: float = 300.0) -> list[str]:
        """Wait until everything has settled and is healthy; what is not, as sentences."""
        self.rebake("agent", "start")
        try:
            until(self.settled, seconds)
            until(lambda: self.healthy() == len(self.instances()), seconds)
            until(lambda: not self.strays(), 60.0)
        except AssertionError:
            return [f"not settled after {seconds:g}s: {self.brief()}, strays {self.strays()}"]
        return []

    def swept(self) -> list[str]:
        """Collect what is not needed, verify the ledger; what is left over, or wrong, as sentences."""
        found = [
            f"rebake {words} ended with {done.code}: {done.err or done.out}"
            for words in ("gc", "ledger verify")
            if (done := self.rebake(*words.split())).code
        ]
        found += [f"half unpacked: {path}" for path in self.half_unpacked()]
        known = {record.digest.removeprefix("sha256:") for record in Store(self.layout.store).releases()}
        unpacked = {p.name.partition(".")[0] for p in (self.layout.store / "unpacked" / "releases").glob("[0-9a-f]*")}
        return found + [f"unpacked release {name}, which the store does not know" for name in sorted(unpacked - known)]

    # Harm

    def kill_holder(self) -> bool:
        """SIGKILL whoever holds the home's lock, at whatever point of its life. False when nobody does."""
        pid = self.holder
        if not pid:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        until(lambda: not alive(pid))
        return True

    def kill(self, *pids: int) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until(lambda: not any(map(alive, pids)))

    def kill_everything(self) -> None:
        """What a power cut does to the processes: all of them, none spared, none told."""
        while found := self.processes():
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            until(partial(_gone, found))


def _brief(environment: Environment) -> str:
    rollout, stable = environment.rollout, environment.stable
    under_way = f"{rollout.id} {rollout.state}: {rollout.reason}" if rollout else "nothing"
    leaving = [gone.fleet.id for gone in environment.leaving]
    return f"{environment.key}: stable {stable.id if stable else None}, {under_way}, leaving {leaving}"


def _gone(pids: Sequence[int]) -> bool:
    return not any(map(alive, pids))


@contextmanager
def ground(home: Path | None = None) -> Iterator[Ground]:
    """See `cleared`."""
    with cleared(lambda root: Ground(root, home)) as site:
        yield site


G = TypeVar("G", bound=Ground)


@contextmanager
def cleared(make: Callable[[Path], G]) -> Iterator[G]:
    """A ground that is cleared at its end. Raises: AssertionError when something had to be killed to clear it."""
    root = Path(tempfile.mkdtemp(prefix="rebake-torture-"))
    site = make(root)
    try:
        yield site
    finally:
        left = site.clear()
        shutil.rmtree(root, ignore_errors=True)
    assert not left, f"left running after everything was taken down: {left}"


def _environ(pid: int) -> dict[str, str]:
    try:
        words = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return {}
    return dict(word.split("=", 1) for word in words if "=" in word)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200]
    except OSError:
        return "gone"


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _leads(pid: int) -> bool:
    """Whether it leads its session, as the process of an instance does."""
    fields = _stat(pid)
    return bool(fields) and int(fields[3]) == pid


def _is_child(pid: int, ancestors: set[int]) -> bool:
    fields = _stat(pid)
    return not fields or int(fields[1]) in ancestors


def back_within(load: Load, since: float, *, quiet: float = 1.0, seconds: float = 20.0) -> float:
    """Seconds from `since` (monotonic) until the last unserved request, once nothing was lost for `quiet` seconds."""
    last, count = since, unserved(load.report())
    deadline = time.monotonic() + seconds
    while time.monotonic() - last < quiet:
        assert time.monotonic() < deadline, f"requests are still lost after {seconds:g}s"
        time.sleep(0.02)
        found = unserved(load.report())
        if found != count:
            last, count = time.monotonic(), found
    return last - since
