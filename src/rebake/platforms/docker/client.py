"""What is said to the engine, and what it answers, translated: the only module that knows the SDK.

The SDK (docker-py) brings what one should not write: the streams of logs and events, archives, and the dialect that
Podman shares. It is loaded when the first container is asked for.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from rebake.errors import Permanent, PlatformError, Transient

OLDEST_API = "1.41"
"""Of Docker 20.10 and of Podman 4: the oldest that has all that is asked here."""
TIMEOUT_SECONDS = 30.0
LOAD_SECONDS = 600.0
Doc = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What an engine says of itself. `init`: it can put a small first process before the command."""

    version: str
    api: str
    driver: str
    init: bool
    live_restore: bool
    rootless: bool
    seccomp: bool
    limits: tuple[str, ...]
    podman: bool


class NameTaken(Exception):
    """A container of this name is there already."""


class PortTaken(Exception):
    """The published port is somebody else's."""


class DockerClient:
    """One engine by its socket. Safe from several threads. Every method raises PlatformError."""

    def __init__(self, socket: str) -> None:
        self.socket = socket
        self._lock = threading.Lock()
        self._api: Any = None
        self._version = ""
        self._podman = False

    def facts(self) -> EngineFacts:
        """Raises: Permanent `docker-too-old`."""
        with self._errors():
            api = self._connected()
            info = api.info()
        options = " ".join(info.get("SecurityOptions") or ())
        limits = {"memory": "MemoryLimit", "cpu": "CpuCfsQuota", "pids": "PidsLimit"}
        return EngineFacts(
            version=str(info.get("ServerVersion", "?")),
            api=str(api.api_version),
            driver=str(info.get("Driver", "?")),
            init=bool(info.get("InitBinary")),
            live_restore=bool(info.get("LiveRestoreEnabled")),
            rootless="rootless" in options,
            seccomp="seccomp" in options,
            limits=tuple(name for name, key in limits.items() if info.get(key)),
            podman=self._podman,
        )

    # Images.

    def image(self, image_id: str) -> Doc | None:
        return self._found(lambda api: api.inspect_image(image_id))

    def images(self, label: str) -> list[Doc]:
        """The images that carry a label, newest first."""
        with self._errors():
            found: list[Doc] = self._connected().images(filters={"label": [label]})
        return found

    def load(self, archive: Iterable[bytes]) -> None:
        """Hand over an archive of images. Raises: Permanent `docker-refused` when it is not taken."""
        with self._errors():
            api = self._fresh(LOAD_SECONDS)
            with closing(api):
                for line in api.load_image(archive, quiet=True):
                    if "error" in line:
                        raise _refusal(self.socket, str(line["error"]), 400)

    def remove_image(self, image_id: str) -> None:
        """Remove an image and its names; one that a container still uses stays."""
        self._found(lambda api: api.remove_image(image_id, force=False))

    # Containers.

    def create(self, name: str, request: Mapping[str, Any]) -> str:
        """Returns the container's id. Raises: NameTaken."""
        with self._errors():
            return str(self._connected().create_container_from_config(dict(request), name)["Id"])

    def start(self, container: str) -> None:
        """Idempotent while it runs. Raises: PortTaken; Permanent `command-not-found`."""
        with self._errors():
            self._connected().start(container)

    def signal(self, container: str, name: str) -> None:
        """Nothing when it runs no more."""
        self._found(lambda api: api.kill(container, name), also=409)

    def remove(self, container: str) -> None:
        """End it, if it runs, and remove it with its anonymous volumes. Nothing when it is gone."""
        self._found(lambda api: api.remove_container(container, v=True, force=True), also=409)

    def inspect(self, container: str) -> Doc | None:
        return self._found(lambda api: api.inspect_container(container))

    def containers(self, labels: Mapping[str, str]) -> list[Doc]:
        """Every container with these labels, also those that have ended."""
        with self._errors():
            wanted = [f"{name}={value}" for name, value in labels.items()]
            found: list[Doc] = self._connected().containers(all=True, filters={"label": wanted})
        return found

    def changes(self, container: str) -> list[Doc]:
        """Paths of the image that are other in the container: `[{"Path", "Kind": 0 changed | 1 added | 2 removed}]`."""
        return self._found(lambda api: api.diff(container)) or []

    def logs(self, container: str, lines: int) -> list[str]:
        """The last lines of both streams, oldest first."""
        data = self._found(lambda api: api.logs(container, tail=lines)) or b""
        text = data.decode("utf-8", "replace").removesuffix("\n")
        return [line.rstrip("\r") for line in text.split("\n")][-lines:] if text else []

    def has_file(self, container: str, path: str) -> bool:
        """Whether a container, started or not, holds this path."""
        return self._found(lambda api: self._stat(api, container, path)) is not None

    @staticmethod
    def _stat(api: Any, container: str, path: str) -> Doc:
        stream, stat = api.get_archive(container, path)
        stream.close()
        return dict(stat)

    def begin_session(self, container: str, command: list[str]) -> str:
        """Run a command in a container, and do not wait for its end. Returns the session's id."""
        with self._errors():
            api = self._connected()
            exec_id = str(api.exec_create(container, command, stdout=False, stderr=False)["Id"])
            api.exec_start(exec_id, detach=True)
        return exec_id

    def session(self, exec_id: str) -> Doc | None:
        """One exec session."""
        return self._found(lambda api: api.exec_inspect(exec_id))

    # Networks and events.

    def make_network(self, request: Mapping[str, Any]) -> None:
        """Make a network, unless one of its name is there."""
        with self._errors():
            api = self._connected()
            name = str(request["Name"])
            if not any(one["Name"] == name for one in api.networks(names=[name])):
                api.create_network(
                    name,
                    driver=request["Driver"],
                    options=request["Options"],
                    labels=request["Labels"],
                    check_duplicate=True,
                )

    def remove_network(self, name: str) -> None:
        """Nothing when it is gone, or somebody still uses it."""
        self._found(lambda api: api.remove_network(name), also=403)

    def events(self, label: str, since: float, opened: Callable[[Callable[[], None]], None]) -> Iterator[Doc]:
        """What happens to the containers with a label, until the stream breaks or is closed.

        Args:
            since: seconds since the epoch; what happened after it is told again.
            opened: told once, when the engine listens to us, how to close the stream.
        """
        with self._errors():
            api = self._fresh(None)
            with closing(api):
                filters = {"type": ["container"], "label": [label]}
                stream = api.events(since=f"{since:.9f}", filters=filters, decode=True)
                opened(stream.close)
                yield from stream

    # Inside.

    def _connected(self) -> Any:
        with self._lock:
            if self._api is None:
                self._api = self._fresh(TIMEOUT_SECONDS)
            return self._api

    def _fresh(self, timeout: float | None) -> Any:
        try:
            import docker
        except ImportError as error:
            raise Permanent(
                "docker-sdk-missing",
                "expected the Python package docker, which speaks to the engine; it is not installed",
                remedy="pip install 'rebake[docker]', then rebake agent stop (the next command starts it again)",
            ) from error
        wait: Any = timeout  # None waits for ever, which the SDK's types do not know
        with self._errors():
            url = f"unix://{self.socket}"
            if not self._version:
                with closing(docker.APIClient(base_url=url, version=OLDEST_API, timeout=wait)) as api:
                    self._meet(api)
            api = docker.APIClient(base_url=url, version=self._version, timeout=wait)
            if _number(api.api_version) < _number(OLDEST_API):
                api.close()
                raise _too_old(self.socket, f"this one speaks {api.api_version}")
        return api

    def _meet(self, api: Any) -> None:
        """Learn who answers. Not by `/version`: there Podman asks the package manager for its parts, and takes seconds.

        Source: Docker Engine API v1.41, SystemPing; podman-system-service(1).
        """
        answer = api.get(f"{api.base_url}/_ping")
        answer.raise_for_status()
        self._version = answer.headers.get("Api-Version", "auto")
        self._podman = "Libpod-Api-Version" in answer.headers

    def _found(self, ask: Callable[[Any], T], also: int = 404) -> T | None:
        """The answer; None for what is not there (404), or cannot be done any more (`also`)."""
        import docker.errors

        with self._errors():
            try:
                return ask(self._connected())
            except docker.errors.APIError as error:
                if error.status_code in (404, also):
                    return None
                raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (PlatformError, NameTaken, PortTaken):
            raise
        except Exception as error:
            raise translate(error, self.socket) from error


def translate(error: Exception, socket: str) -> Exception:
    """What the SDK raised, as one of our families, most specific first."""
    import docker.errors
    import requests.exceptions

    if isinstance(error, docker.errors.APIError):
        return _refusal(socket, str(error.explanation or error), error.status_code or 500)
    reason = _root(error)
    if isinstance(reason, PermissionError):
        return Permanent(
            "docker-permission",
            "the engine's socket may not be used by this user",
            where=socket,
            remedy="sudo usermod -aG docker $USER, log in anew, rebake agent stop; or use a rootless engine",
        )
    lost = (docker.errors.DockerException, requests.exceptions.RequestException, OSError)
    if isinstance(error, lost):
        said = reason.strerror if isinstance(reason, OSError) else None
        return Transient(
            "docker-unreachable",
            f"no Docker engine answers: {said or reason}",
            where=socket,
            remedy="start it (systemctl start docker; podman: systemctl --user start podman.socket); rebake doctor",
            retry_after_seconds=2.0,
        )
    return error


def _root(error: BaseException) -> BaseException:
    """The error of the system below the SDK's wrappings."""
    seen: BaseException = error
    queue: list[Any] = [error]
    while queue:
        one = queue.pop()
        if isinstance(one, OSError) and isinstance(one.errno, int):
            return one
        if isinstance(one, BaseException):
            seen = one
            queue += [*one.args, one.__cause__, one.__context__, getattr(one, "reason", None)]
    return seen


def _refusal(socket: str, said: str, status: int) -> Exception:
    """An answer that is no success. The engine tells its reasons as sentences only."""
    low = said.lower()
    if "already in use" in low and (status == 409 or "container name" in low):  # Podman says 500
        return NameTaken(said)
    if any(word in low for word in ("port is already allocated", "address already in use")):
        return PortTaken(said)
    if "no space left on device" in low or "disk quota exceeded" in low:
        return Permanent(
            "docker-disk-full",
            f"the engine has no space left: {said}",
            where=socket,
            remedy="docker system df shows what takes it; rebake gc removes releases that nothing needs",
        )
    if "executable file not found" in low or ("no such file or directory" in low and "exec" in low):
        return Permanent(
            "command-not-found",
            f"the image has no such command: {said}",
            where="run.command",
            remedy="name a program that the image holds, by its full path or by a name on the image's PATH",
        )
    if "client version" in low and ("too new" in low or "too old" in low):
        return _too_old(socket, said)
    if status >= 500:
        return Transient("docker-failed", f"the engine could not do it: {said}", where=socket, remedy="rebake doctor")
    return Permanent(
        "docker-refused",
        f"the engine refused: {said}",
        where=socket,
        remedy="rebake doctor shows what the engine offers; its own log says more (journalctl -u docker)",
    )


def _too_old(socket: str, said: str) -> Permanent:
    return Permanent(
        "docker-too-old",
        f"expected an engine that speaks API {OLDEST_API} (Docker 20.10, Podman 4, or newer): {said}",
        where=socket,
        remedy="update the engine, then run the same command again",
    )


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def answers(place: str) -> bool:
    """Whether an engine listens at this socket, and this user may speak to it."""
    try:
        with socket.socket(socket.AF_UNIX) as asked:
            asked.settimeout(1.0)
            asked.connect(place)
    except OSError:
        return False
    return True
