"""Where an agent lives, turned against it: a disk that fills up, one that is read-only, a clock that is set."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.site import until
from tests.torture.audit import broken_rules
from tests.torture.ground import Findings, Ground, Skip, ground, unserved

HELD = "    strategy: {canary: {steps: [10%], hold: 10m}}\n    soak: 10m\n"
SECONDS = "    strategy: {canary: {steps: [10%], hold: 3s}}\n    soak: 3s\n"
MINUTES = "    strategy: blue-green\n    soak: 10m\n"
QUICK = "    strategy: blue-green\n    soak: 1s\n"
_LIBRARIES = ("/usr/lib/*/faketime/libfaketime.so.1", "/usr/lib/faketime/libfaketime.so.1")


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
    until(lambda: _state(site) == "holding", 60)


def _says(site: Ground, findings: Findings, words: tuple[str, ...], *, also_dead: bool) -> None:
    """The trouble is told in a sentence: by status while the agent lives, and by the command that cannot start one."""

    def told() -> bool:
        done = site.rebake("status", "production")
        return any(word in done.out + done.err for word in words)

    try:
        until(told, 15)
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


def _end(findings: Findings, site: Ground, lost: int) -> Findings:
    findings.figures["lost"] = lost
    findings.demand(not lost, f"lost {lost} requests")
    findings.violations += [*broken_rules(site.entries()), *site.swept()]
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
        return _end(findings, site, max(0, unserved(report) - 3))


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
        return _end(findings, site, unserved(report))


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


def _library() -> Path:
    for pattern in _LIBRARIES:
        for path in sorted(Path("/").glob(pattern.removeprefix("/"))):
            return path
    raise Skip("the clock is set with libfaketime: apt-get install libfaketime")


class _Clock:
    """The wall clock of everything that is started from now on; the monotonic clock goes on as it is."""

    def __init__(self, site: Ground, library: Path) -> None:
        self._file = site.root / "clock"
        self.set(0)
        site.environ |= {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, seconds: int) -> None:
        temporary = self._file.with_suffix(".new")
        temporary.write_text(f"{seconds:+d}\n")
        temporary.replace(self._file)


def clock() -> Findings:
    """The wall clock is set an hour back and an hour on: under the agent's life, and between two of its lives."""
    findings = Findings("a clock that is set")
    library = _library()
    with ground() as site:
        turned = _Clock(site, library)
        site.source("v0")
        site.describe(QUICK)
        assert site.deploy().code == 0
        slowest, number = 0.0, 0
        with site.load() as load:
            for offset in (-3600, 0, 3600, 0):
                for reborn in (False, True):
                    number += 1
                    site.source(f"v{number}")
                    site.describe(SECONDS)
                    began = time.monotonic()
                    assert site.insist("deploy", "production", "--detach").code == 0
                    until(lambda: _state(site) == "holding", 60)
                    turned.set(offset if reborn else -offset)
                    if reborn:
                        site.kill_holder()
                        site.rebake("agent", "start")
                    site.kill(next(iter(site.instances())))
                    findings.violations += site.calm(60.0)
                    slowest = max(slowest, time.monotonic() - began)
            _soak_is_kept(site, turned, findings)
            report = load.stop()
        findings.figures = {"steps": number, "slowest_rollout_s": round(slowest, 1)}
        findings.demand(slowest < 45.0, f"a rollout of seconds took {slowest:.0f}s")
        return _end(findings, site, max(0, unserved(report) - 2 * number))


def _soak_is_kept(site: Ground, turned: _Clock, findings: Findings) -> None:
    """An hour that did not pass must not end a soak of ten minutes."""
    site.source("soaking")
    site.describe(MINUTES)
    assert site.deploy().code == 0
    turned.set(3600)
    site.kill_holder()
    site.rebake("agent", "start")
    with contextlib.suppress(AssertionError):
        until(lambda: _state(site) != "soaking", 3.0)
    findings.demand(_state(site) == "soaking", f"the soak was ended by the clock: {site.brief()}")
    undone = site.insist("undo", "production")
    findings.demand(undone.code == 0, f"undo: {undone.err}")
    findings.violations += site.calm()
