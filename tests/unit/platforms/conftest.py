"""A home with the `local` platform on it, and a small service that does what a test asks it to."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from rebake.core.clock import Clock
from rebake.core.home import Home
from rebake.platforms.local.cgroups import Hierarchies
from rebake.platforms.local.layout import Layout, ProcessFolder
from rebake.platforms.local.platform import LocalPlatform
from rebake.platforms.model import Instance, InstanceSpec
from rebake.release.manifest import Health, Release, Resources, RunContract, SecretVersion
from rebake.testing.conformance.platform import Fleet, eventually
from rebake.testing.releases import TinyStore, tar_of

SERVER = r"""
import ctypes, json, os, subprocess, sys, urllib.parse
from http.server import BaseHTTPRequestHandler, HTTPServer

eaten = []

def write(path):
    try:
        with open(path, "a") as file:
            file.write("x")
        return "written"
    except OSError as error:
        return f"refused {error.errno}"

def fork(arguments):
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)
    return str(child.pid)

def retitle(arguments):
    start = int(open("/proc/self/stat").read().rpartition(")")[2].split()[45])
    ctypes.memset(start, ord("x"), 6)
    return open("/proc/self/cmdline").read()

def become(arguments):
    server.socket.close()
    os.environ["GREETING"] = "changed"
    os.execv(sys.executable, [sys.executable, sys.argv[0], sys.argv[1], "another"])

ACTIONS = {
    "/env": lambda q: json.dumps(dict(os.environ)),
    "/argv": lambda q: json.dumps(sys.argv),
    "/where": lambda q: json.dumps([os.getcwd(), sys.prefix, sys.path]),
    "/write": lambda q: write(q["path"]),
    "/fork": fork,
    "/retitle": retitle,
    "/become": become,
    "/sick": lambda q: write(os.environ["TMPDIR"] + "/sick"),
    "/eat": lambda q: eaten.append(bytearray(os.urandom(1 << 20) * 512)) or "ate",
    "/say": lambda q: print(q["text"], flush=True) or "said",
}

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        address = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(address.query))
        sick = address.path == "/healthz" and os.path.exists(os.environ["TMPDIR"] + "/sick")
        body = ACTIONS.get(address.path, lambda q: "ok")(query).encode()
        self.send_response(503 if sick else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

if os.environ.get("STUBBORN"):
    import signal
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
server = HTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler)
server.serve_forever()
"""


class Secrets:
    """Secrets by version, and which were asked for."""

    def secret(self, version: str) -> str:
        return f"value-of-{version}"


class World:
    """One home, its store and its platforms."""

    def __init__(self, root: Path) -> None:
        self.home = Home(root / "home")
        self.layout = Layout(self.home)
        self.store = TinyStore(root / "blobs")
        self.pids: list[int] = []
        self._open: list[LocalPlatform] = []
        self.platform = self.open()
        self.fleet = Fleet(self)  # type: ignore[arg-type]  # only its platform is used here

    def open(
        self,
        writable: Callable[[str, str], Sequence[Path]] | None = None,
        hierarchies: Hierarchies | None = None,
        clock: Clock | None = None,
    ) -> LocalPlatform:
        platform = LocalPlatform(self.home, self.store, Secrets(), clock, writable=writable, hierarchies=hierarchies)
        self._open.append(platform)
        return platform

    def release(self, extra: dict[str, bytes | str] | None = None, *, app: str = SERVER, **env: str) -> Release:
        run = RunContract(("python", "server.py", "one"), health=Health(interval_ms=50, unhealthy_after=2), env=env)
        return self.store.add(run, tar_of({"app/server.py": app, **(extra or {})}))

    def spec(self, release: Release, *, resources: Resources | None = None, **secrets: str) -> InstanceSpec:
        spec = self.fleet.spec(release)
        run = spec.run if resources is None else replace(spec.run, resources=resources)
        return replace(spec, run=run, secrets={name: SecretVersion("file", v) for name, v in secrets.items()})

    def launched(self, release: Release) -> Instance:
        return self.healthy(self.spec(release))

    def healthy(self, spec: InstanceSpec, platform: LocalPlatform | None = None) -> Instance:
        (platform or self.platform).launch(spec)
        return self.fleet.until(spec.id, lambda i: i.healthy is True, platform or self.platform)

    def inspected(self, instance: str) -> Instance:
        return next(i for i in self.platform.inspect("shop", "production") if i.id == instance)

    def folder(self, instance: Instance | InstanceSpec) -> ProcessFolder:
        return self.layout.instance(instance.id)

    def close(self) -> None:
        """Leave no process behind, whatever the test did."""
        for platform in self._open:
            platform.close()
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        last = self.open()
        try:
            for path in list(self.home.instances.glob("[!.]*")):
                eventually(partial(_retired, last, path), partial("{} is still there".format, path))
            groups = last._groups
            eventually(lambda: groups.remove(groups.leftovers(set())), lambda: "control groups are left")
        finally:
            last.close()


def _retired(platform: LocalPlatform, folder: Path) -> bool:
    platform.retire(folder.name, 0)
    return not folder.exists()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()
