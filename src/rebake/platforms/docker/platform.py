"""The `docker` platform behind the port: joins requests, the engine, records and watch."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

from rebake.core.clock import Clock, SystemClock
from rebake.core.home import Home
from rebake.errors import Permanent, PlatformError, RebakeError, Transient
from rebake.ledger.fencing import Tokens
from rebake.ledger.ports import Fence
from rebake.platforms import port_choice
from rebake.platforms.docker import drift
from rebake.platforms.docker.archive import ImageStore
from rebake.platforms.docker.client import DockerClient, NameTaken, PortTaken
from rebake.platforms.docker.doctor import findings
from rebake.platforms.docker.ending import describe_end
from rebake.platforms.docker.engines import Engine, Row
from rebake.platforms.docker.images import Images
from rebake.platforms.docker.places import Job, Places
from rebake.platforms.docker.records import ContainerFolder, ContainerFolders, Intent, Started, Touched
from rebake.platforms.docker.requests import (
    ENVIRONMENT_LABEL,
    INSTANCE_LABEL,
    SERVICE_LABEL,
    container_name,
    health_command,
    network_name,
)
from rebake.platforms.docker.sessions import HealthSessions, Place
from rebake.platforms.docker.settings import DockerSettings, settings_from, socket_of
from rebake.platforms.docker.strangers import PREFIX, Strangers, runs
from rebake.platforms.faults import disk_errors
from rebake.platforms.findings import Finding
from rebake.platforms.health import Condition
from rebake.platforms.instances import Life, condition_of
from rebake.platforms.model import Drift, Instance, InstanceSpec
from rebake.platforms.ports import Progress
from rebake.platforms.records import Ended, Stopping, write_once, write_record
from rebake.platforms.sources import SecretSource
from rebake.platforms.watcher import Watched, Watcher
from rebake.platforms.wishes import NoWishes, Wishes
from rebake.release.manifest import Release

_PORT_TRIES = 4
_KEPT_LINES = 10_000
_STARTS = 4
"""Containers that are started at the same time."""
_LOG = logging.getLogger(__name__)


class DockerPlatform:
    """Instances are containers; they outlive this object and its program.

    Args:
        home: where records are kept.
        store: releases and their layers.
        secrets: values of secrets by version.
        clock: for what is recorded; probes have their own monotonic time.
        wishes: what environments ask of their engine.
        environ: where `DOCKER_HOST` is looked for.

    Attributes:
        on_change: told (service, environment) on a thread of this object when health or liveness changed.
    """

    name = "docker"

    def __init__(
        self,
        home: Home,
        store: ImageStore,
        secrets: SecretSource,
        clock: Clock | None = None,
        *,
        wishes: Wishes | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.on_change: Callable[[str, str], None] | None = None
        self._home, self._store, self._secrets = home, store, secrets
        self._clock = clock or SystemClock()
        self._wishes = wishes or NoWishes()
        self._environ = os.environ if environ is None else environ
        self._folders = ContainerFolders(home)
        self._images = Images(store, self._folders, home.tag)
        self._places = Places(home, secrets)
        self._drift: dict[str, tuple[Drift, ...]] = {}
        self._strangers = Strangers(self._clock.now)
        self._tokens = Tokens()
        self._pool = ThreadPoolExecutor(_STARTS, thread_name_prefix="rebake-docker-start")
        self._starting: set[str] = set()
        self._lock = threading.RLock()
        self._engines: dict[str, Engine] = {}
        self._watcher: Watcher | None = None
        self._closed = False

    # The port.

    def prepare(self, release: Release, progress: Progress) -> None:
        """Verify the image and load it into every engine that will run it. See `Platform.prepare`."""
        environments = self._wishes.environments(release.service) or ("",)
        sockets = {self._socket(self._settings(release.service, environment)) for environment in environments}
        with disk_errors(self._home.root):
            for socket in sorted(sockets):
                self._images.ready(self._engine(socket).client, release, progress)

    def launch(self, spec: InstanceSpec, *, fence: Fence | None = None) -> None:
        """Write down what is to be started, and start it on a thread of this object. See `Platform.launch`.

        Several containers start at the same time. One that cannot be started counts as exited, with the reason.
        Raises: what `prepare` raises; Transient `no-free-port`.
        """
        self._tokens.check(fence)
        folder = self._folders.folder(spec.id)
        with disk_errors(self._home.root), self._lock:
            self._watch()
            intent = self._folders.intent(folder)
            if intent is None:
                settings = self._settings(spec.service, spec.environment)
                intent = self._intend(Job(self._engine(self._socket(settings)), folder, spec, settings), set())
            self._begin(folder, intent)

    def observe(self, service: str, environment: str) -> Sequence[Instance]:
        """What is known now. See `Platform.observe`."""
        with disk_errors(self._home.root):
            self._watch()
            mine = list(self._folders.of(service, environment))
            rows = self._rows(service, environment, mine)
            known = [self._instance(folder, intent, rows.get(folder.id)) for folder, intent in mine]
        return [*known, *self._strangers.instances(rows)]

    def retire(self, instance: str, grace_ms: int, *, fence: Fence | None = None) -> None:
        """Tell it to finish, end it after the grace, remove what is left. See `Platform.retire`."""
        self._tokens.check(fence)
        if instance.startswith(PREFIX):
            self._strangers.retire(list(self._engines.values()), instance, grace_ms)
            return
        folder = self._folders.folder(instance)
        with disk_errors(self._home.root), self._lock:
            intent = self._folders.intent(folder)
            if intent is None:
                return
            self._watch()
            engine = self._engine(intent.socket)
            if self._end(engine, folder, intent, grace_ms):
                self._remove(engine, folder, intent)
            engine.changed()

    def logs(self, instance: str, lines: int) -> Sequence[str]:
        """The last lines it wrote. See `Platform.logs`."""
        if lines <= 0 or instance.startswith(PREFIX):
            return ()
        with disk_errors(self._home.root):
            intent = self._folders.intent(self._folders.folder(instance))
            if intent is None:
                return self._folders.kept_log(instance, lines)
        return self._engine(intent.socket).client.logs(self._name(instance), lines)

    def reach(self, addresses: Sequence[str]) -> AbstractContextManager[Sequence[str]]:
        """Instances are on this machine. See `Platform.reach`."""
        return nullcontext(addresses)

    def inspect(self, service: str, environment: str) -> Sequence[Instance]:
        """Look for drift in image, files, configuration, network, mounts and sessions. See `Platform.inspect`."""
        with disk_errors(self._home.root):
            self._watch()
            settings = self._settings(service, environment)
            for folder, intent in list(self._folders.of(service, environment)):
                self._drift[folder.id] = tuple(self._differences(folder, intent, settings))
                self._engine(intent.socket).changed()
        return self.observe(service, environment)

    # Beside the port.

    def doctor(self) -> list[Finding]:
        """What the engine of this machine offers."""
        with disk_errors(self._home.root):
            wanted = any(True for _ in self._folders.all())
        try:
            socket = self._socket(DockerSettings())
        except PlatformError as error:
            return [Finding("docker", not wanted, error.problem, error.remedy)]
        return findings(DockerClient(socket), wanted=wanted)

    def forget(self, digest: str) -> int:
        """Remove the image of a release that the store has removed; one that a container uses stays."""
        with suppress(RebakeError):
            return self._images.forget(digest)
        return 0

    def close(self) -> None:
        """End watch and listening. Containers are not touched."""
        with self._lock:
            self._closed = True
            watcher, self._watcher = self._watcher, None
            engines, self._engines = list(self._engines.values()), {}
        self._pool.shutdown(wait=True)
        for engine in engines:
            engine.close()
        if watcher is not None:
            watcher.close()

    # Engines and settings.

    def _settings(self, service: str, environment: str) -> DockerSettings:
        return settings_from(self._wishes.settings(service, environment))

    def _socket(self, settings: DockerSettings) -> str:
        return socket_of(settings, self._environ, Path.exists)

    def _engine(self, socket: str) -> Engine:
        with self._lock:
            if self._closed:
                raise Permanent("platform-closed", "the platform was closed", remedy="make another one")
            if socket not in self._engines:
                oldest = min((i.created_at for _, i in self._folders.all() if i.socket == socket), default=None)
                since = self._clock.now() if oldest is None else oldest
                client = DockerClient(socket)
                self._engines[socket] = Engine(client, self._home.tag, since, self._heard, self._reached)
            return self._engines[socket]

    def _name(self, instance: str) -> str:
        return container_name(self._home.tag, instance)

    def _heard(self, event: Mapping[str, Any]) -> None:
        """One event of one container: its end is noted, and so is a session that somebody opens in it."""
        labels = (event.get("Actor") or {}).get("Attributes") or {}
        instance, action = str(labels.get(INSTANCE_LABEL, "")), str(event.get("Action", ""))
        kind, _, command = action.partition(": ")
        if kind == "exec_start" and instance:
            self._note_session(instance, command)
        if kind in ("die", "destroy", "oom"):
            self._note_end(instance)
        self._tell(str(labels.get(SERVICE_LABEL, "")), str(labels.get(ENVIRONMENT_LABEL, "")))

    def _reached(self) -> None:
        """The engine began or ceased to answer: every environment wants to know."""
        for service, environment in {(i.spec.service, i.spec.environment) for _, i in self._folders.all()}:
            self._tell(service, environment)

    def _tell(self, service: str, environment: str) -> None:
        if self.on_change is not None and service:
            self.on_change(service, environment)

    # Launching.

    def _intend(self, job: Job, taken: set[int]) -> Intent:
        """Decide where it goes, and write that down before anything is asked of the engine."""
        client = job.engine.client
        image = self._images.ready(client, self._store.release(job.spec.release), _silent)
        used = {intent.port for _, intent in self._folders.all()} | taken
        port = port_choice.choose(used, port_choice.first(self._home.tag, job.spec.id))
        shell = bool(job.spec.secrets) and self._images.has_shell(client, image)
        intent = self._places.intend(job, image.facts, port=port, shell=shell, now=self._clock.now())
        self._folders.write_intent(job.folder, intent)
        return intent

    def _begin(self, folder: ContainerFolder, intent: Intent) -> None:
        """Start it in the background, if it was not started, told to finish, or is on its way."""
        over = folder.started.exists() or folder.stopping.exists() or folder.exit.exists()
        with self._lock:
            if over or folder.id in self._starting or self._closed:
                return
            self._starting.add(folder.id)
        self._pool.submit(self._raise, folder, intent)

    def _raise(self, folder: ContainerFolder, intent: Intent) -> None:
        spec = intent.spec
        try:
            with disk_errors(self._home.root):
                self._start(folder, intent)
        except Transient as error:
            _LOG.warning("%s: %s", folder.id, error.problem)  # `observe` tries again
        except RebakeError as error:
            self._could_not(folder, error)
        except Exception:
            _LOG.exception("starting %s", folder.id)
        finally:
            with self._lock:
                self._starting.discard(folder.id)
        self._tell(spec.service, spec.environment)

    def _could_not(self, folder: ContainerFolder, error: RebakeError) -> None:
        with suppress(OSError):
            write_once(folder.exit, Ended(f"could not be started: {error.problem} [{error.code}]", self._clock.now()))

    def _start(self, folder: ContainerFolder, intent: Intent) -> None:
        """Raise what is intended; a port that somebody took meanwhile is exchanged for another one."""
        engine, spec = self._engine(intent.socket), intent.spec
        if intent.request["HostConfig"]["NetworkMode"] == network_name(self._home.tag):
            engine.network()
        taken: set[int] = set()
        for _ in range(_PORT_TRIES):
            try:
                self._create_and_start(engine, folder, intent)
            except PortTaken:
                taken.add(intent.port)
                engine.client.remove(self._name(spec.id))
                settings = self._settings(spec.service, spec.environment)
                with self._lock:
                    intent = self._intend(Job(engine, folder, spec, settings), taken)
                continue
            finally:
                engine.changed()
            self._watch_one(intent)
            return
        raise Transient("no-free-port", f"the ports {sorted(taken)} were taken before the engine had them")

    def _create_and_start(self, engine: Engine, folder: ContainerFolder, intent: Intent) -> None:
        """Create by name and start, if nobody did; one that has run is not started again."""
        name = self._name(folder.id)
        self._places.make(folder, intent)
        if folder.stopping.exists():
            return
        try:
            engine.client.create(name, self._places.with_secrets(intent))
        except NameTaken:
            found = engine.client.inspect(name) or {}
            if (found.get("State") or {}).get("Status", "created") != "created":
                write_record(folder.started, Started(str(found.get("Id")), self._clock.now()))
                return
        except PlatformError:
            engine.forget_network()
            raise
        engine.client.start(name)
        write_record(folder.started, Started(name, self._clock.now()))

    # Watching.

    def _watch(self) -> Watcher:
        """The watch over all containers; begun when it is first needed, adopting whatever runs already."""
        with self._lock:
            if self._watcher is None:
                if self._closed:
                    raise Permanent("platform-closed", "the platform was closed", remedy="make another one")
                sessions = HealthSessions(self._health_place)
                self._watcher = Watcher(_nothing, self._record_health, self._tell, sessions=sessions)
                self._folders.sweep()
                for folder, intent in self._folders.all():
                    if folder.started.exists() and not folder.exit.exists():
                        self._watch_one(intent, was_healthy=folder.settled.exists())
            return self._watcher

    def _watch_one(self, intent: Intent, *, was_healthy: bool = False) -> None:
        spec = intent.spec
        condition = Condition(was_healthy=was_healthy)
        watcher = self._watch()
        watcher.watch(Watched(spec.id, spec.service, spec.environment, intent.port, spec.run.health, condition))
        late = spec.run.health.start_timeout_ms / 1000 - max(0.0, self._clock.now() - intent.created_at)
        if late > 0 and not was_healthy:
            watcher.after(late + 0.001, lambda: self._tell(spec.service, spec.environment))

    def _record_health(self, watched: Watched) -> str | None:
        """Remember that it was healthy once."""
        folder = self._folders.folder(watched.id)
        with suppress(OSError):
            write_record(folder.settled, Stopping(self._clock.now(), 0.0))
        return None

    def _health_place(self, instance: str) -> Place | None:
        intent = self._folders.intent(self._folders.folder(instance))
        if intent is None:
            return None
        client = self._engine(intent.socket).client
        return Place(client, self._name(instance), health_command(intent.spec, intent.request))

    def _note_session(self, instance: str, command: str) -> None:
        folder = self._folders.folder(instance)
        intent, known = self._folders.intent(folder), self._folders.sessions(folder)
        if intent is not None and command == " ".join(health_command(intent.spec, intent.request)):
            return
        if folder.root.exists() and command not in known:
            with suppress(FileNotFoundError):
                write_record(folder.touched, Touched((*known, command)[:10]))

    def _note_end(self, instance: str) -> None:
        """Write down how it ended, once."""
        folder = self._folders.folder(instance) if instance else None
        intent = self._folders.intent(folder) if folder is not None else None
        if folder is None or intent is None or not folder.started.exists() or folder.exit.exists():
            return
        found = self._engine(intent.socket).client.inspect(self._name(instance))
        text = describe_end(found, intent.spec.run.resources.memory_bytes)
        if text is not None:
            with suppress(FileNotFoundError):
                write_once(folder.exit, Ended(text, self._clock.now()))
            with self._lock:
                if self._watcher is not None:
                    self._watcher.forget(instance)

    # Observing.

    def _rows(self, service: str, environment: str, mine: Sequence[tuple[ContainerFolder, Intent]]) -> dict[str, Row]:
        """Containers of one environment, by instance; a stranger under a name of its own."""
        sockets = {intent.socket for _, intent in mine}
        if not sockets and self._wishes.settings(service, environment) is not None and self._engines:
            sockets = set(self._engines)
        found: dict[str, Row] = {}
        ids = {folder.id for folder, _ in mine}
        for socket in sockets:
            for row in self._engine(socket).rows():
                labels = row.get("Labels") or {}
                if (labels.get(SERVICE_LABEL), labels.get(ENVIRONMENT_LABEL)) == (service, environment):
                    instance = str(labels.get(INSTANCE_LABEL))
                    own = instance in ids and f"/{self._name(instance)}" in (row.get("Names") or ())
                    found[instance if own else PREFIX + str(row["Id"])[:12]] = row
        return found

    def _instance(self, folder: ContainerFolder, intent: Intent, row: Row | None) -> Instance:
        now, started = self._clock.now(), self._folders.started(folder)
        if started is None:
            self._begin(folder, intent)
        if started is not None and (row is None or row.get("State") not in ("created", "running", "paused")):
            self._note_end(folder.id)
        ended = self._folders.ended(folder)
        text = ended.text if ended else None
        seen = self._watch().seen(folder.id)
        if seen is None and ended is None and started is not None:  # another program launched it meanwhile
            self._watch_one(intent, was_healthy=folder.settled.exists())
        life = Life(
            spec=intent.spec,
            port=intent.port,
            created_at=intent.created_at,
            now=now,
            condition=condition_of(folder, seen),
            ended=text,
            stopping=folder.stopping.exists(),
            drift=self._drift.get(folder.id, ()),
        )
        return life.instance()

    def _differences(self, folder: ContainerFolder, intent: Intent, settings: DockerSettings) -> Iterator[Drift]:
        if folder.exit.exists() or folder.stopping.exists() or not folder.started.exists():
            return
        client = self._engine(intent.socket).client
        found = client.inspect(self._name(folder.id))
        if found is None:
            return
        yield from drift.container_drift(folder.id, intent.request, found, intent.exposed)
        if found["State"].get("Paused"):
            yield Drift("configuration", f"{folder.id}: State", "running", "paused")
        yield from drift.changed_files(folder.id, client.changes(self._name(folder.id)), drift.mount_points(found))
        if settings.exec == "replace":
            for command in self._folders.sessions(folder):
                yield Drift("session", folder.id, "", command[:200])

    # Retiring.

    def _end(self, engine: Engine, folder: ContainerFolder, intent: Intent, grace_ms: int) -> bool:
        """Signal as due. True when nothing of it runs any more."""
        name, now = self._name(folder.id), self._clock.now()
        if not runs(engine.client.inspect(name)):
            write_record(folder.stopping, Stopping(now, now))  # whoever is about to start it does not any more
            return folder.id not in self._starting
        known = self._folders.stopping(folder)
        deadline = now + grace_ms / 1000
        if known is None or deadline < known.deadline:
            write_record(folder.stopping, Stopping(known.at if known else now, deadline))
            again = lambda: self._tell(intent.spec.service, intent.spec.environment)  # noqa: E731
            self._watch().after(max(0.0, deadline - now) + 0.001, again)
        else:
            deadline = known.deadline
        if now >= deadline:
            engine.client.signal(name, "SIGKILL")
        elif known is None:
            engine.client.signal(name, "SIGTERM")
        return False

    def _remove(self, engine: Engine, folder: ContainerFolder, intent: Intent) -> None:
        name = self._name(folder.id)
        self._folders.keep_log(folder.id, engine.client.logs(name, _KEPT_LINES))
        engine.client.remove(name)
        self._watch().forget(folder.id)
        self._folders.remove(folder)
        self._drift.pop(folder.id, None)
        if not any(other.socket == intent.socket for _, other in self._folders.all()):
            engine.client.remove_network(network_name(self._home.tag))
            engine.forget_network()


def _nothing(_watched: Watched) -> None:
    """The engine's events tell how a container ended."""


def _silent(_line: str) -> None:
    pass
