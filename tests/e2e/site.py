"""One real service under the real command line, agent, Envoy and processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rebake.cli.client import AgentAbsent, Client, OtherVersion
from rebake.cli.session import environment_path
from rebake.cli.verbs.status import document
from rebake.core.home import Home
from rebake.errors import RebakeError
from rebake.tour.load import Load, Request
from rebake.tour.stage import free_ports
from rebake.traffic.envoy.names import PREVIEW_HEADER, PREVIEW_VALUE

SERVER = """\
import os, signal, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TEXT = "one"
FAIL_EVERY = 0
count = 0

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    def do_GET(self):
        global count
        count += self.path == "/"
        failing = self.path == "/" and FAIL_EVERY and count % FAIL_EVERY == 0
        text = "failed" if failing else f"{TEXT} {os.environ.get('GREETING', '')}"
        self.send_response(500 if failing else 200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())
    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.do_GET()
    def log_message(self, *args):
        pass

class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

server = Server((os.environ["HOST"], int(os.environ["PORT"])), Handler)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
print("serving", flush=True)
server.serve_forever(poll_interval=0.05)
"""

HEAD = """\
service: shop
bake: {{builder: files}}
run:
  command: [{python}, -u, server.py]
  health: {{path: /healthz, interval: 200ms, start_timeout: 20s}}
  drain: 2s
environments:
"""
FILE = (
    HEAD
    + """\
  production:
    platform: local
    instances: 2
    listen: 127.0.0.1:{port}
    drift_interval: 1s
{more}
"""
)
BLUE_GREEN = "    strategy: blue-green\n    soak: 5m\n"
CANARY = "    strategy: {canary: {steps: [20%, 50%], hold: 1s}}\n    soak: 5m\n"


@dataclass
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def doc(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found


class Site:
    """A folder with a service, a home, and the words a test needs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / "home"
        self.folder = root / "shop"
        self.folder.mkdir()
        self.port = free_ports(1)[0]
        self.url = f"http://127.0.0.1:{self.port}"
        self.environ = {**os.environ, "REBAKE_HOME": str(self.home)}
        self.write("server.py", SERVER)
        self.describe(BLUE_GREEN)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def describe(self, more: str, **changes: str) -> None:
        text = FILE.format(python=sys.executable, port=changes.pop("port", self.port), more=more)
        for before, after in changes.items():
            assert before in text
            text = text.replace(before, after)
        self.write("rebake.yaml", text)

    def edit(self, before: str, after: str) -> None:
        text = (self.folder / "server.py").read_text()
        assert before in text
        self.write("server.py", text.replace(before, after))

    def popen(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "rebake.cli", *words],
            cwd=self.folder,
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )

    def rebake(self, *words: str) -> Done:
        process = self.popen(*words)
        out, err = process.communicate(timeout=120)
        return Done(process.returncode, out, err)

    def deploy(self, *words: str) -> Done:
        return self.rebake("deploy", "production", "--json", *words)

    def status(self) -> dict[str, Any]:
        """As `rebake status production --json` tells it."""
        seen = self.asked(environment_path("shop", "production"))
        return self.rebake("status", "production", "--json").doc if seen is None else document(seen)

    def asked(self, path: str) -> dict[str, Any] | None:
        """What the agent itself answers, since what is waited for is asked often; None where a command must be run,
        which starts an agent and says what is wrong."""
        try:
            found: dict[str, Any] = Client(Home(self.home).agent_socket).call("GET", path)
        except (AgentAbsent, OtherVersion, RebakeError):
            return None
        return found

    def get(self, path: str = "/", *, preview: bool = False) -> tuple[int, str]:
        """What a user sees, or a tester who asks for the candidate; status 0 when there is no answer."""
        headers = {PREVIEW_HEADER: PREVIEW_VALUE} if preview else {}
        request = urllib.request.Request(self.url + path, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def load(self, rate: float = 100.0, path: str = "/") -> Load:
        return Load(self.url, rate, (Request(path),))

    @property
    def agent(self) -> int:
        pid = self.rebake("agent", "status", "--json").doc["pid"]
        assert isinstance(pid, int)
        return pid

    def kill_agent(self) -> None:
        pid = self.agent
        os.kill(pid, signal.SIGKILL)
        until(lambda: not alive(pid))

    def stable_instances(self) -> list[dict[str, Any]]:
        return [i for i in self.status()["instances"] if i["cohort"] == "stable"]

    def processes(self) -> list[int]:
        """Every live process that carries this home, wherever it lies."""
        marks, found = (str(self.root).encode(), str(self.home).encode()), []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                text = (folder / "environ").read_bytes() + (folder / "cmdline").read_bytes()
                zombie = (folder / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
            except OSError:
                continue
            if any(mark in text for mark in marks) and not zombie and int(folder.name) != os.getpid():
                found.append(int(folder.name))
        return found

    def clear(self) -> list[int]:
        """End everything; what is still alive after that."""
        if self.home.exists():
            self.rebake("down", "production", "--yes")
            self.rebake("agent", "stop")
        with contextlib.suppress(AssertionError):
            until(lambda: not self.processes(), 20)
        left = self.processes()
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        for folder, _, _ in os.walk(self.root):
            Path(folder).chmod(0o700)
        return left


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Wait for a condition of the real world, with a deadline."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not true within {seconds:g}s"
        time.sleep(0.05)
    return result
