"""A real Docker engine for tests and benchmarks, started and ended by them.

It has its own data, sockets, containerd and names, touches no firewall and pulls nothing, so it runs beside any other
engine of the machine. It ends with the process that started it, however that ends. Needs root, and Debian's `docker.io`
or any other `dockerd`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rebake.testing.children import end_with_parent

INSTALL = "no Docker engine can be started here (as root on Debian: apt-get install docker.io)"
START_SECONDS = 60.0
_PLACES = "/usr/sbin:/usr/local/sbin:/sbin"


class NoEngine(Exception):
    """No engine can be had on this machine; the sentence says why, or what to install."""


class DockerEngine:
    """One `dockerd` of our own. Used as a context: its containers and what it wrote are gone afterwards.

    Attributes:
        folder: everything of it lies below; short, because a socket's path is.
        socket: where it answers.
    """

    def __init__(self, *, live_restore: bool = False) -> None:
        """Start it and return when it answers.

        Args:
            live_restore: containers go on while the engine is away.
        Raises: NoEngine.
        """
        self._daemon, self._client = self._programs()
        # Its name is containerd's namespace too, which takes no underscore at its end, as tempfile sometimes gives.
        self.folder = Path("/tmp") / f"rebake-dk-{secrets.token_hex(4)}"
        self.folder.mkdir(mode=0o700)
        self.socket = self.folder / "docker.sock"
        self._live_restore = live_restore
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> DockerEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def host(self) -> str:
        """What `DOCKER_HOST` is set to."""
        return f"unix://{self.socket}"

    @property
    def environ(self) -> Mapping[str, str]:
        """For programs that shall talk to this engine and know nothing of another one."""
        config = str(self.folder / "client")
        return {
            **os.environ,
            "DOCKER_HOST": self.host,
            "DOCKER_CONFIG": config,
            "PATH": f"/usr/bin:{os.environ['PATH']}",
        }

    @property
    def command(self) -> list[str]:
        """The client's command line, to which a verb is added."""
        return [self._client, "--host", self.host]

    @property
    def pid(self) -> int:
        """The engine's process."""
        if self._process is None:
            raise RuntimeError("the engine is not running")
        return self._process.pid

    def docker(self, *words: str, stdin: bytes | None = None, check: bool = True) -> str:
        """Run one command of the client and give what it printed. Raises: RuntimeError with what it said."""
        done = subprocess.run([*self.command, *words], input=stdin, capture_output=True, check=False, timeout=120)
        if check and done.returncode:
            raise RuntimeError(f"docker {' '.join(words)}: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout.decode(errors="replace").strip()

    def inspect(self, name: str) -> dict[str, Any]:
        """What the engine says of one thing."""
        found: list[dict[str, Any]] = json.loads(self.docker("inspect", name))
        return found[0]

    def answers(self) -> bool:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as asked:
            asked.settimeout(20)
            asked.connect(str(self.socket))
            asked.sendall(b"GET /_ping HTTP/1.0\r\nHost: engine\r\n\r\n")
            return b" 200 " in asked.recv(64)
        return False

    def start(self) -> None:
        """Start it, also again after `stop` or `kill`. Raises: NoEngine with the end of its log."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command_line(),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **self._settings()},
                start_new_session=True,  # a Ctrl-C at the terminal is for the tests, not for the engine
                preexec_fn=end_with_parent,  # noqa: PLW1509 (one call into the kernel, nothing that locks)
            )
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                tail = (self.folder / "log").read_text(errors="replace").splitlines()[-3:]
                raise NoEngine("the engine does not start here: " + " | ".join(tail))
            time.sleep(0.05)

    def _programs(self) -> tuple[str, str]:
        """Daemon and client; that of Debian, since one that is first on the path may be of another age."""
        daemon = shutil.which("dockerd") or shutil.which("dockerd", path=_PLACES)
        client = _client()
        if daemon is None or client is None or os.geteuid() != 0:
            raise NoEngine(INSTALL)
        return daemon, client

    def _settings(self) -> Mapping[str, str]:
        """What its environment says besides ours."""
        return {}

    def _command_line(self) -> list[str]:
        folder, space = self.folder, self.folder.name
        options = {
            "host": self.host,
            "data-root": str(folder / "data"),
            "exec-root": str(folder / "exec"),
            "pidfile": str(folder / "pid"),
            "config-file": str(folder / "daemon.json"),
            "containerd-namespace": space,
            "containerd-plugins-namespace": f"{space}-plugins",
            "bridge": "none",
            "iptables": "false",
            "ip6tables": "false",
            "ip-masq": "false",
            "live-restore": str(self._live_restore).lower(),
            "shutdown-timeout": "3",
        }
        (folder / "daemon.json").write_text("{}")
        return [self._daemon, *(f"--{name}={value}" for name, value in options.items())]

    def stop(self) -> None:
        """End it politely: without live restore it ends its containers too."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash does; its containers run on until it is started again."""
        self._end(signal.SIGKILL)
        pid = self.folder / "exec" / "containerd" / "containerd.pid"
        with contextlib.suppress(OSError, ValueError):  # an engine that starts waits for one that is a zombie
            os.kill(int(pid.read_text()), signal.SIGKILL)
        pid.unlink(missing_ok=True)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def clear(self) -> None:
        """Remove every container and network of it."""
        found = self.docker("ps", "-aq", check=False).split()
        if found:
            self.docker("rm", "-f", "-v", *found, check=False)
        self.docker("network", "prune", "-f", check=False)

    def close(self) -> None:
        """End it and remove everything it wrote, also what outlived a kill of it."""
        with contextlib.suppress(NoEngine, subprocess.TimeoutExpired):
            if self._process is None and (self.folder / "data").exists():
                self.start()  # only an engine ends the containers of one that was killed
            if self._process is not None and self._process.poll() is None:
                self.clear()
        self.stop()
        self._end_leftovers()
        _unmount(self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end_leftovers(self) -> None:
        """Its containerd and shims, where the engine was killed: they name its folder or its containerd namespace."""
        mark = self.folder.name.encode()
        deadline = time.monotonic() + 10
        while (left := _marked(mark)) and time.monotonic() < deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)

    def import_image(self, name: str, tar: bytes, changes: Sequence[str] = ()) -> str:
        """An image of one layer from a tar archive. Returns its image ID."""
        options = [word for change in changes for word in ("--change", change)]
        return self.docker("import", *options, "-", name, stdin=tar)


def _client() -> str | None:
    return next((c for c in ("/usr/bin/docker", shutil.which("docker")) if c and Path(c).exists()), None)


def _marked(mark: bytes) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes()
            if mark in words and re.search(rb"containerd|docker", words) and int(folder.name) != os.getpid():
                found.append(int(folder.name))
    return found


def _unmount(folder: Path) -> None:
    """What a killed engine left mounted, the innermost first."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    for place in sorted((line.split()[1] for line in lines), reverse=True):
        if place.startswith(f"{folder}/"):
            subprocess.run(["umount", "-l", place], capture_output=True, check=False)


class PodmanEngine(DockerEngine):
    """Podman's compatible socket, on storage of its own; the client is Docker's.

    Source: podman-system-service(1), containers.conf(5), containers-storage.conf(5).
    """

    def _programs(self) -> tuple[str, str]:
        daemon, client = shutil.which("podman"), _client()
        if daemon is None or client is None or os.geteuid() != 0:
            raise NoEngine("Podman is not here (on Debian, as root: apt-get install podman runc docker.io)")
        return daemon, client

    def _settings(self) -> Mapping[str, str]:
        """Limits are ours: a machine may not allow the defaults. runc knows every arrangement of cgroups."""
        hard = [resource.getrlimit(kind)[1] for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC)]
        nofile, nproc = (4096 if most == resource.RLIM_INFINITY else min(most, 4096) for most in hard)
        runtime = "runc" if shutil.which("runc") else "crun"
        (self.folder / "containers.conf").write_text(
            f'[containers]\ndefault_ulimits = ["nofile={nofile}:{nofile}", "nproc={nproc}:{nproc}"]\n'
            f'[engine]\nruntime = "{runtime}"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
        )
        (self.folder / "storage.conf").write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{self.folder}/data"\nrunroot = "{self.folder}/run"\n'
        )
        return {
            "CONTAINERS_CONF": str(self.folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(self.folder / "storage.conf"),
        }

    def _command_line(self) -> list[str]:
        return [self._daemon, "system", "service", "--time", "0", self.host]
