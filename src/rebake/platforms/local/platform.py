"""The `local` platform behind the port: joins requests, processes, folders and watch."""

from __future__ import annotations

import errno
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path

from rebake.core.clock import Clock, SystemClock, boot_id
from rebake.core.home import Home
from rebake.errors import Permanent, RebakeError
from rebake.ledger.fencing import Tokens
from rebake.ledger.ports import Fence
from rebake.platforms import logs, port_choice
from rebake.platforms.faults import disk_errors
from rebake.platforms.findings import Finding
from rebake.platforms.health import Condition
from rebake.platforms.instances import Life, condition_of
from rebake.platforms.local import cgroups, landlock, listeners, processes
from rebake.platforms.local.doctor import findings
from rebake.platforms.local.drift import process_drift
from rebake.platforms.local.folders import STUB_SECONDS, Folders, session_of
from rebake.platforms.local.layout import Layout, ProcessFolder
from rebake.platforms.local.records import Identity, Intent
from rebake.platforms.local.requests import LaunchRequest, launch_request
from rebake.platforms.local.strangers import PREFIX, Strangers
from rebake.platforms.local.unpacked import Ready, Unpacked, inspect_tree
from rebake.platforms.model import Drift, Instance, InstanceSpec
from rebake.platforms.ports import Progress
from rebake.platforms.records import Ended, Stopping, write_once, write_record
from rebake.platforms.sources import ReleaseSource, SecretSource
from rebake.platforms.watcher import Watched, Watcher
from rebake.release.manifest import Release

_ROTATE_SECONDS = 5.0
_REAPING = threading.Lock()
"""Asking how a child ended and writing it down is one step, whichever platform object of this program asks."""


class LocalPlatform:
    """Instances are processes of the unpacked release on this machine; they outlive this object and its program.

    Args:
        home: where everything is kept.
        store: releases and their layers.
        secrets: values of secrets by version.
        clock: for what is recorded; probes have their own monotonic time.
        writable: further folders that instances of (service, environment) may write to.
        hierarchies: where control groups are made; found out when not given.

    Attributes:
        on_change: told (service, environment) on a thread of this object when health or liveness changed; the engine
            sets it.
    """

    name = "local"

    def __init__(
        self,
        home: Home,
        store: ReleaseSource,
        secrets: SecretSource,
        clock: Clock | None = None,
        *,
        writable: Callable[[str, str], Sequence[Path]] | None = None,
        hierarchies: cgroups.Hierarchies | None = None,
    ) -> None:
        self.on_change: Callable[[str, str], None] | None = None
        self._layout = Layout(home)
        self._store, self._secrets, self._clock = store, secrets, clock or SystemClock()
        self._writable = writable or _nowhere
        self._groups = cgroups.Groups(hierarchies or cgroups.detect(self._layout.tag), self._layout.tag)
        self._folders = Folders(self._layout, self._clock.boot)
        self._unpacked = Unpacked(self._layout, store, self._folders.trees_in_use)
        self._strangers = Strangers(self._folders, self._clock.now, self._asking)
        self._drift: dict[str, tuple[Drift, ...]] = {}
        self._tokens = Tokens()
        self._lock = threading.RLock()
        self._watcher: Watcher | None = None
        self._closed = False

    # The port.

    def prepare(self, release: Release, progress: Progress) -> None:
        """Unpack, verify and bind the release. See `Platform.prepare`."""
        self._unpacked.ready(release, progress)

    def launch(self, spec: InstanceSpec, *, fence: Fence | None = None) -> None:
        """Start one instance. See `Platform.launch`.

        Raises: Permanent `command-not-found`, and what `prepare` and the secrets raise; Transient `no-free-port`.
        """
        self._tokens.check(fence)
        folder = self._layout.instance(spec.id)
        with disk_errors(self._layout.home.root):
            self._watch()
            if self._folders.intent(folder) is None:
                ready = self._unpacked.ready(self._store.release(spec.release), _silent)
                self._intend(folder, spec, ready)
            self._start(folder)

    def observe(self, service: str, environment: str) -> Sequence[Instance]:
        """What is known now. See `Platform.observe`."""
        with disk_errors(self._layout.home.root):
            self._watch()
            known = [self._instance(folder, intent) for folder, intent in self._folders.of(service, environment)]
        return [*known, *self._strangers.instances(service, environment)]

    def retire(self, instance: str, grace_ms: int, *, fence: Fence | None = None) -> None:
        """Tell it to finish, end it after the grace, remove what is left. See `Platform.retire`."""
        self._tokens.check(fence)
        if instance.startswith(PREFIX):
            self._strangers.retire(instance, grace_ms)
            return
        folder = self._layout.instance(instance)
        with disk_errors(self._layout.home.root), self._lock:
            if not folder.root.exists():
                return
            self._watch()
            if not self._end(folder, grace_ms):
                return
            intent = self._folders.intent(folder)
            self._remove(folder)
        self._folders.sweep()
        self._unpacked.drop_damaged(map(Path, intent.trees if intent else ()))

    def logs(self, instance: str, lines: int) -> Sequence[str]:
        """The last lines it wrote. See `Platform.logs`."""
        if instance.startswith(PREFIX):
            return ()
        with disk_errors(self._layout.home.root):
            return logs.read(self._folders.log_of(instance), lines)

    def reach(self, addresses: Sequence[str]) -> AbstractContextManager[Sequence[str]]:
        """Instances are on this machine. See `Platform.reach`."""
        return nullcontext(addresses)

    def inspect(self, service: str, environment: str) -> Sequence[Instance]:
        """Look for drift in files, processes and limits, and for strangers. See `Platform.inspect`."""
        with disk_errors(self._layout.home.root):
            self._watch()
            mine = list(self._folders.of(service, environment))
            trees = {tree: inspect_tree(Path(tree)) for tree in dict.fromkeys(t for _, i in mine for t in i.trees)}
            for folder, intent in mine:
                of_trees = [drift for tree in intent.trees for drift in trees[tree]]
                self._drift[folder.id] = (*of_trees, *self._process_drift(folder, intent))
            self._strangers.look(recent=True)
        return self.observe(service, environment)

    # Beside the port.

    def doctor(self) -> list[Finding]:
        """What this machine offers."""
        return findings(self._layout, self._groups.hierarchies)

    def forget(self, digest: str) -> int:
        """Remove the unpacked copy of a release the store has removed; what instances run from stays. Bytes freed."""
        return self._unpacked.forget(digest)

    def forget_data(self, service: str, environment: str) -> None:
        """Delete `$REBAKE_DATA` of an environment. Nothing else in rebake does."""
        with disk_errors(self._layout.data_root):
            with suppress(FileNotFoundError):
                shutil.rmtree(self._layout.data(service, environment))
            with suppress(OSError):
                self._layout.data(service, environment).parent.rmdir()

    def close(self) -> None:
        """End the watch. Instances are not touched."""
        with self._lock:
            self._closed = True
            watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.close()

    # Launching.

    def _intend(self, folder: ProcessFolder, spec: InstanceSpec, ready: Ready) -> None:
        with self._lock:
            if self._folders.intent(folder) is not None:
                return
            port = port_choice.choose(self._folders.ports_in_use(), port_choice.first(self._layout.tag, folder.id))
            groups = self._groups.places(folder.id)
            grouped = "memory" in (self._groups.hierarchies.parents or {})
            request = launch_request(
                spec,
                ready.binding,
                folder,
                self._layout.data(spec.service, spec.environment),
                port,
                landlock_abi=landlock.abi(),
                writable=self._writable(spec.service, spec.environment),
                join=[str(group / "cgroup.procs") for group in groups],
                rlimit_memory=None if grouped else spec.run.resources.memory_bytes,
            )
            _executable(request)
            trees, places = tuple(map(str, ready.trees)), tuple(map(str, groups))
            now, boot = self._clock.now(), self._clock.boot()
            self._folders.write_intent(folder, Intent(spec, request, trees, places, now, boot))

    def _start(self, folder: ProcessFolder) -> None:
        """Start what is intended, if nobody did. A stub that finds another's record ends without a trace."""
        intent = self._folders.intent(folder)
        if intent is None:
            return
        secrets = {name: self._secrets.secret(version.version) for name, version in intent.spec.secrets.items()}
        with self._lock:
            if self._folders.identity(folder) is not None or folder.exit.exists() or folder.stopping.exists():
                return
            self._groups.make(folder.id, intent.spec.run.resources)
            pid = processes.spawn(folder.spec, folder.log, {**intent.launch.env, **secrets})
            identity = processes.identify(pid, intent.launch.port)
            if identity is not None:
                self._folders.remember(folder, identity)
                self._watch_one(intent, identity)

    def _run_health(self, instance: str) -> int:
        """Start the health command in the instance's place: environment, secrets, limits and write protection are its
        own. See `health_commands`."""
        folder = self._layout.instance(instance)
        intent = self._folders.intent(folder)
        if intent is None:
            raise FileNotFoundError(errno.ENOENT, "the instance is gone")
        try:
            secrets = {name: self._secrets.secret(version.version) for name, version in intent.spec.secrets.items()}
        except RebakeError as error:
            raise OSError(errno.EIO, error.problem) from error
        return processes.spawn(folder.spec, folder.log, {**intent.launch.env, **secrets}, health=True)

    def _asking(self) -> frozenset[int]:
        with self._lock:
            return self._watcher.commands.pids if self._watcher is not None else frozenset()

    # Watching.

    def _watch(self) -> Watcher:
        """The watch over all instances; begun when it is first needed, adopting whatever runs already."""
        with self._lock:
            if self._watcher is None:
                if self._closed:
                    raise Permanent("platform-closed", "the platform was closed", remedy="make another one")
                self._watcher = Watcher(self._record_end, self._record_health, self._tell, self._run_health)
                self._adopt()
                self._watcher.after(_ROTATE_SECONDS, self._rotate)
            return self._watcher

    def _adopt(self) -> None:
        known = set()
        for folder, intent in self._folders.all():
            known.add(folder.id)
            identity = self._folders.identity(folder)
            if identity is not None and not folder.exit.exists():
                self._watch_one(intent, identity, was_healthy=folder.settled.exists())
        self._folders.sweep()
        self._folders.sweep_unborn()
        self._groups.remove(self._groups.leftovers(known))

    def _watch_one(self, intent: Intent, identity: Identity, *, was_healthy: bool = False) -> None:
        spec = intent.spec
        condition = Condition(was_healthy=was_healthy)
        watched = Watched(spec.id, spec.service, spec.environment, identity.port, spec.run.health, condition)
        watched.open_end = partial(processes.open_pidfd, identity)
        watcher = self._watch()
        watcher.watch(watched)
        # Whoever waits for the start wants to be told when it is over.
        late = spec.run.health.start_timeout_ms / 1000 - max(0.0, self._clock.now() - intent.created_at)
        if late > 0 and not was_healthy:
            watcher.after(late + 0.001, lambda: self._tell(spec.service, spec.environment))

    def _tell(self, service: str, environment: str) -> None:
        if self.on_change is not None:
            self.on_change(service, environment)

    def _record_end(self, watched: Watched) -> None:
        folder = self._layout.instance(watched.id)
        intent, identity = self._folders.intent(folder), self._folders.identity(folder)
        if identity is None:
            return
        limit = intent.spec.run.resources.memory_bytes if intent else None
        killed = intent is not None and cgroups.out_of_memory_kills(map(Path, intent.groups)) > 0
        with _REAPING, suppress(FileNotFoundError):
            status = processes.wait_status(identity, watched.end)
            if not folder.exit.exists():
                text = processes.describe_exit(status, limit if killed else None)
                if identity.boot != boot_id():
                    text = "ended with the machine, which was started again"
                write_once(folder.exit, Ended(text, self._clock.now()))

    def _record_health(self, watched: Watched) -> str | None:
        """Remember what a process looks like that serves; unless it was another's server that answered."""
        folder, port = self._layout.instance(watched.id), watched.port
        intent, identity = self._folders.intent(folder), self._folders.identity(folder)
        groups = intent.groups if intent is not None else ()
        own = cgroups.members_of(groups) if groups else self._marked_as(watched.id)
        if watched.contract.path and listeners.is_foreign(port, own):
            return f"port {port} is answered by another program"
        settled = processes.look(identity.pid) if identity is not None else None
        if settled is not None and identity is not None and processes.alive(identity):
            with suppress(OSError):
                write_record(folder.settled, settled)
        return None

    def _marked_as(self, instance: str) -> set[int]:
        """Processes that call themselves this instance, where no control group tells."""
        marked = processes.marked(self._layout.data_root)
        return {m.identity.pid for m in marked if m.env.get("REBAKE_INSTANCE") == instance}

    def _rotate(self) -> None:
        for folder, _ in self._folders.all():
            with suppress(OSError):
                logs.rotate(folder.log)
        with self._lock:
            if self._watcher is not None:
                self._watcher.after(_ROTATE_SECONDS, self._rotate)

    # Observing.

    def _instance(self, folder: ProcessFolder, intent: Intent) -> Instance:
        now = self._clock.now()
        identity = self._folders.identity(folder)
        seen = self._watch().seen(folder.id)
        ended = self._folders.exit(folder, now)
        if seen is None and ended is None and identity is not None:  # another program launched it meanwhile
            self._watch_one(intent, identity, was_healthy=folder.settled.exists())
        life = Life(
            spec=intent.spec,
            port=intent.launch.port,
            created_at=intent.created_at,
            now=now,
            condition=condition_of(folder, seen),
            ended=ended,
            stopping=folder.stopping.exists(),
            pid=identity.pid if identity is not None else None,
            drift=self._drift.get(folder.id, ()),
        )
        return life.instance()

    def _process_drift(self, folder: ProcessFolder, intent: Intent) -> Iterable[Drift]:
        identity = self._folders.identity(folder)
        if identity is None or folder.exit.exists() or folder.stopping.exists():
            return
        found, settled = processes.look(identity.pid), self._folders.settled(folder)
        differences = list(self._groups.differences(map(Path, intent.groups), intent.spec.run.resources, identity.pid))
        if not processes.alive(identity):  # what was read may be of nobody, or of somebody else
            return
        if found is not None:
            yield from process_drift(folder.id, intent.launch, settled, found)
        if settled is not None:
            yield from (Drift("limits", f"{folder.id}: {name}", want, have) for name, want, have in differences)

    # Retiring.

    def _end(self, folder: ProcessFolder, grace_ms: int) -> bool:
        """Signal as due. True when the process is gone."""
        now, identity = self._clock.now(), self._folders.identity(folder)
        intent = self._folders.intent(folder)
        if identity is None:
            # A stub may be on its way. It records itself within this time, or it never will.
            young = intent is not None and now - intent.created_at < STUB_SECONDS
            self._stopping(folder, now, now)
            return not young
        if not processes.alive(identity):
            return True
        deadline = self._stopping(folder, now, now + grace_ms / 1000)
        if now >= deadline:
            processes.signal_group(identity, signal.SIGKILL)
            cgroups.kill_members(map(Path, intent.groups if intent else ()))
        return not processes.alive(identity)

    def _stopping(self, folder: ProcessFolder, now: float, deadline: float) -> float:
        """Record that it is to finish, and say so to it, once. Returns the earliest deadline it was given."""
        known = self._folders.stopping(folder)
        if known is not None and known.deadline <= deadline:
            return known.deadline
        write_record(folder.stopping, Stopping(known.at if known else now, deadline, self._clock.boot()))
        identity, intent = self._folders.identity(folder), self._folders.intent(folder)
        if known is None and identity is not None and deadline > now:
            processes.signal_group(identity, signal.SIGTERM)
        if intent is not None:
            spec = intent.spec
            self._watch().after(max(0.0, deadline - now) + 0.001, lambda: self._tell(spec.service, spec.environment))
        return deadline

    def _remove(self, folder: ProcessFolder) -> None:
        identity, intent = self._folders.identity(folder), self._folders.intent(folder)
        groups = tuple(map(Path, intent.groups)) if intent else ()
        cgroups.kill_members(groups)
        if identity is not None:
            if not groups:
                for straggler in session_of(identity, self._layout.data_root):
                    processes.kill(straggler)
            with _REAPING:
                processes.wait_status(identity, None)
        self._watch().forget(folder.id)
        self._folders.remove(folder)
        self._groups.remove(groups)
        self._drift.pop(folder.id, None)


def _nowhere(_service: str, _environment: str) -> Sequence[Path]:
    return ()


def _silent(_line: str) -> None:
    pass


def _executable(request: LaunchRequest) -> None:
    """Raises: Permanent `command-not-found` before anything is started that could only fail."""
    name = request.argv[0] if request.argv else ""
    found = shutil.which(str(Path(request.cwd, name)) if "/" in name else name, path=request.env["PATH"])
    if found is None:
        raise Permanent(
            "command-not-found",
            f"expected {name!r} among the release's commands, found none",
            where="run.command",
            remedy="name a command that the release's dependencies bring, or a file of the release such as ./serve",
            evidence=[f"PATH={request.env['PATH']}", f"working directory {request.cwd}"],
        )
