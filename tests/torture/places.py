"""Where an agent lives, turned against it: a disk that fills up, one that is read-only, a clock that is set."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rebake.tour.load import Report
from tests.e2e.site import until
from tests.torture.audit import broken_rules
from tests.torture.ground import Findings, Ground, Skip, ground, unserved

HELD = "    strategy: {canary: {steps: [10%], hold: 10m}}\n    soak: 10m\n"
SECONDS = "    strategy: {canary: {steps: [10%], hold: 3s}}\n    soak: 3s\n"
MINUTES = "    strategy: blue-green\n    soak: 10m\n"
QUICK = "    strategy: blue-green\n    soak: 1s\n"


@contextmanager
def _small_disk(size: str) -> Iterator[Path]:
    """A file system of its own, in memory. Raises: Skip where this user may not mount."""
    folder = Path(tempfile.mkdtemp(prefix="rebake-disk-"))
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "rebake-torture", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        folder.rmdir()
        raise Skip(f"a file system can only be mounted as root: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)
        folder.rmdir()


def _fill(folder: Path) -> Path:
    """Take every byte that is left."""
    path = folder / "filler"
    size = 1 << 20
    with path.open("ab", buffering=0) as file:
        while size >= 1:
            try:
                file.write(b"\0" * size)
            except OSError:
                size //= 2
    return path


def _state(site: Ground) -> str:
    rollout = site.remembered().rollout
    return str(rollout.state) if rollout else ""


def _hold(site: Ground, text: str) -> None:
    site.source(text)
    site.describe(HELD)
    assert site.insist("deploy", "production", "--detach").code == 0
    until(lambda: _state(site) == "holding", 300)


def _says(site: Ground, findings: Findings, words: tuple[str, ...], *, also_dead: bool) -> None:
    """The trouble is told in a sentence: by status while the agent lives, and by the command that cannot start one."""

    def told() -> bool:
        done = site.rebake("status", "production")
        return any(word in done.out + done.err for word in words)

    try:
        until(told, 60)
    except AssertionError:
        findings.violations.append(f"status says nothing of it: {site.rebake('status', 'production').out}")
    if site.holder:
        candidate = site.rebake("status", "production", "--json").doc["candidate"]
        findings.demand(candidate["healthy"] == candidate["instances"], f"what is healthy is not shown so: {candidate}")
    if also_dead:
        site.kill_holder()
        done = site.rebake("status", "production")
        findings.demand(
            any(word in done.out + done.err for word in words) and "Traceback" not in done.err,
            f"with the agent dead, status says nothing of it: {done.code} {done.out} {done.err}",
        )


def _goes_on(site: Ground, findings: Findings) -> None:
    """Healed: the rollout can be ended, and the next one goes through."""
    stopped = site.insist("stop", "production")
    findings.demand(stopped.code == 0, f"stop after it was healed: {stopped.err}")
    site.source("v9")
    site.describe(QUICK)
    done = site.deploy()
    findings.demand(done.code == 0, f"deploy after it was healed: {done.code} {done.err}")
    findings.violations += site.calm()


def _end(findings: Findings, site: Ground, report: Report, *, allowed: int = 0, clock_set: bool = False) -> Findings:
    """Args: allowed: requests that were under way in instances that the scenario kills."""
    findings.count(report)
    lost = unserved(report)
    findings.demand(lost <= allowed, f"lost {lost} requests, allowed {allowed}")
    findings.violations += [*broken_rules(site.entries(), clock_set=clock_set), *site.swept()]
    return findings


def disk() -> Findings:
    """The disk of the home fills up in the middle of a rollout; the agent is killed and started; room is made."""
    findings = Findings("a full disk")
    with _small_disk("96m") as folder, ground(folder / "home") as site:
        site.source("v0")
        site.describe(QUICK)
        assert site.deploy().code == 0
        with site.load() as load:
            _hold(site, "v1")
            filler = _fill(folder)
            site.kill(next(iter(site.instances())))
            refused = site.rebake("stop", "production")
            findings.demand("disk" in refused.err, f"stop on a full disk: {refused.code} {refused.err}")
            site.source("v2" * 1000)
            baked = site.rebake("bake")
            findings.demand(
                baked.code == 5 and "space" in baked.err and "Traceback" not in baked.err,
                f"bake on a full disk: {baked.code} {baked.err}",
            )
            _says(site, findings, ("disk", "space"), also_dead=True)
            filler.unlink()
            site.source("v1")
            _goes_on(site, findings)
            report = load.stop()
        return _end(findings, site, report, allowed=3)


def read_only() -> Findings:
    """The home's file system becomes read-only in the middle of a rollout, and writable again."""
    findings = Findings("a read-only store")
    with _small_disk("256m") as folder, ground(folder / "home") as site:
        site.source("v0")
        site.describe(QUICK)
        assert site.deploy().code == 0
        with site.load() as load:
            _hold(site, "v1")
            turned = _turned(site, folder)
            refused = site.rebake("stop", "production")
            findings.demand(
                refused.code == 5 and ("read-only" in refused.err.lower() or "readonly" in refused.err.lower()),
                f"stop on a read-only disk: {refused.code} {refused.err}",
            )
            _says(site, findings, ("read-only", "readonly", "Read-only", "cannot be written"), also_dead=True)
            turned()
            _goes_on(site, findings)
            report = load.stop()
        return _end(findings, site, report)


def _turned(site: Ground, folder: Path) -> Callable[[], None]:
    """Make it read-only; what is given back makes it writable again.

    The mount itself is turned, not the file system. Where the kernel keeps it writable, because files of it are being
    written, a read-only mount is laid over it while the agent is dead: what is opened from then on meets that one.
    """
    if _mounted("remount,bind,ro", folder):
        return lambda: _must(_mounted("remount,bind,rw", folder))
    site.kill_holder()
    _must(_mounted("bind", folder, folder) and _mounted("remount,bind,ro", folder))
    return lambda: _must(subprocess.run(["umount", "--lazy", str(folder)], check=False).returncode == 0)


def _mounted(how: str, *places: Path) -> bool:
    command = ["mount", "-o", how, *map(str, places)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _must(done: bool) -> None:
    if not done:
        raise Skip("this kernel lets nobody turn a mount")


_HOOK = """\
import pathlib, time

_file, _true = pathlib.Path({file!r}), time.time

def _told():
    return _true() + float(_file.read_text())

time.time = _told
time.time_ns = lambda: round(_told() * 1e9)
"""


class _Clock:
    """The wall clock of every program of rebake on this ground, set at one stroke; nobody can set the time since the
    boot. Others on the machine have their own.

    Not by libfaketime: it fakes what threads wait by as well, and an agent under it takes ten seconds to start.
    """

    def __init__(self, site: Ground) -> None:
        self._file = site.root / "clock"
        self.set(0)
        folder = site.root / "hook"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(_HOOK.format(file=str(self._file)))
        site.environ["PYTHONPATH"] = str(folder)

    def set(self, seconds: int) -> None:
        temporary = self._file.with_suffix(".new")
        temporary.write_text(str(seconds))
        temporary.replace(self._file)


def clock() -> Findings:
    """The wall clock is set an hour back and an hour on: under the agent's life, and between two of its lives."""
    findings = Findings("a clock that is set")
    with ground() as site:
        turned = _Clock(site)
        site.source("v0")
        site.describe(QUICK)
        assert site.deploy().code == 0
        took, number = [], 0
        with site.load() as load:
            for offset in (-3600, 0, 3600, 0):
                for reborn in (False, True):
                    number += 1
                    took.append(
                        _seconds_of_one(site, turned, offset if reborn else -offset, f"v{number}", reborn=reborn)
                    )
                    findings.violations += site.calm()
            for by in (3600, -3600):
                _soak_is_kept(site, turned, by, findings)
            report = load.stop()
        findings.figures = {"steps": number, "slowest_rollout_s": max(took)}
        findings.demand(min(took) > 0.0 and max(took) < 1800.0, f"rollouts of seconds took, as they are told, {took} s")
        return _end(findings, site, report, allowed=2 * number, clock_set=True)


def _seconds_of_one(site: Ground, turned: _Clock, offset: int, text: str, *, reborn: bool) -> float:
    """What a rollout of seconds took, as it is told, when the clock is set in its middle and an instance dies."""
    site.source(text)
    site.describe(SECONDS)
    rollout = site.insist("deploy", "production", "--detach", "--json").doc["rollout"]
    until(lambda: _state(site) in ("holding", "soaking"), 300)
    turned.set(offset)
    if reborn:
        site.kill_holder()
        site.rebake("agent", "start")
    site.kill(next(iter(site.instances())))
    until(site.settled, 300)
    history = site.rebake("history", "production", "--json").doc["history"]
    return float(next(view["seconds"] for view in history if view["rollout"] == rollout))


def _soak_is_kept(site: Ground, turned: _Clock, by: int, findings: Findings) -> None:
    """An hour that did not pass must not end a soak of ten minutes, nor make it longer."""
    site.source(f"soaking {by}")
    site.describe(MINUTES)
    assert site.deploy().code == 0
    before = site.remembered().rollout
    turned.set(by)
    site.kill_holder()
    site.rebake("agent", "start")
    with contextlib.suppress(AssertionError):
        until(lambda: _state(site) != "soaking", 5.0)
    after = site.remembered().rollout
    if before is None or after is None or before.id != after.id:
        findings.violations.append(f"the soak was ended by the clock, set by {by}: {site.brief()}")
    else:
        moved = (after.promoted_at or 0.0) - (before.promoted_at or 0.0)
        findings.demand(abs(moved - by) < 1.0, f"set by {by} s, the soak's beginning is told {moved} s later")
    turned.set(0)
    site.kill_holder()
    undone = site.insist("undo", "production")
    findings.demand(undone.code == 0, f"undo: {undone.err}")
    findings.violations += site.calm()
