"""What the edge is measured beside: nginx and HAProxy switching the same two instances, and Envoy with a static file.

Each peer is started on loopback in a folder of its own, and ended with the block. `switch` returns once the new state
is read back in the way the peer offers: by its runtime interface, else by a request on a fresh connection.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from rebake.traffic.envoy.process import find_binary

WORKERS = 2


class Peer(Protocol):
    name: str
    listen: str

    def switch(self, to: int) -> None: ...


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def ask(listen: str) -> str:
    with urllib.request.urlopen(f"http://{listen}/", timeout=5) as answer:
        found: bytes = answer.read()
        return found.decode()


def await_answer(listen: str, expected: str | None = None, seconds: float = 10.0) -> None:
    """Until a request on a fresh connection is answered (by the expected instance)."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError):
            found = ask(listen)
            if expected is None or found == expected:
                return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{listen} did not answer {expected or 'at all'} within {seconds} s")
        time.sleep(0.001)


def _envoy(folder: Path, config: dict[str, Any], workers: int) -> subprocess.Popen[bytes]:
    path = folder / "envoy.json"
    path.write_text(json.dumps(config))
    command = [str(find_binary()), "-c", str(path), "--concurrency", str(workers), "--disable-hot-restart"]
    with (folder / "envoy.log").open("wb") as log:
        return subprocess.Popen([*command, "--log-level", "error"], stdout=log, stderr=log)


def _address(listen: str) -> dict[str, Any]:
    host, _, port = listen.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}


def _listener(listen: str, route: dict[str, Any], log: Path | None = None) -> dict[str, Any]:
    kinds = "type.googleapis.com/envoy.extensions.filters"
    manager = {
        "@type": f"{kinds}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "route_config": {
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, **route}]}]
        },
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{kinds}.http.router.v3.Router"}}],
    }
    if log is not None:
        kind = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog"
        manager["access_log"] = [{"name": "log", "typed_config": {"@type": kind, "path": str(log)}}]
    return {
        "name": listen,
        "address": _address(listen),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


@contextlib.contextmanager
def instances(folder: Path) -> Iterator[list[str]]:
    """Two instances that answer with their name, as fast as anything can: direct answers of one Envoy."""
    places = [free_address(), free_address()]
    answers = [{"direct_response": {"status": 200, "body": {"inline_string": f"instance-{n}"}}} for n in (0, 1)]
    folder.mkdir(parents=True)
    listeners = [_listener(place, answer) for place, answer in zip(places, answers, strict=True)]
    process = _envoy(folder, {"static_resources": {"listeners": listeners}}, 1)
    try:
        for place in places:
            await_answer(place)
        yield places
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def bare_envoy(folder: Path, upstream: str, *, logs: bool) -> Iterator[tuple[str, int]]:
    """Envoy as its documentation starts it: one listener, one static cluster, everything else by default.

    Args:
        logs: it writes its default access log to a file, as ours writes its records.
    Yields: its address and its pid.
    """
    listen = free_address()
    endpoint = {"endpoint": {"address": _address(upstream)}}
    cluster = {
        "name": "one",
        "type": "STATIC",
        "load_assignment": {"cluster_name": "one", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    folder.mkdir(parents=True)
    listener = _listener(listen, {"route": {"cluster": "one"}}, folder / "access.log" if logs else None)
    process = _envoy(folder, {"static_resources": {"listeners": [listener], "clusters": [cluster]}}, WORKERS)
    try:
        await_answer(listen)
        yield listen, process.pid
    finally:
        process.kill()
        process.wait()


class Nginx:
    name = "nginx -s reload"

    def __init__(self, folder: Path, places: list[str]) -> None:
        self.listen = free_address()
        self._folder, self._places = folder, places
        self._config = folder / "nginx.conf"

    def switch(self, to: int) -> None:
        self._write(to)
        subprocess.run([*self._command(), "-s", "reload"], check=True, capture_output=True)
        await_answer(self.listen, f"instance-{to}")

    @contextlib.contextmanager
    def running(self) -> Iterator[Nginx]:
        self._folder.mkdir(parents=True)
        self._write(0)
        process = subprocess.Popen([*self._command(), "-g", "daemon off;"], stderr=subprocess.DEVNULL)
        try:
            await_answer(self.listen)
            yield self
        finally:
            process.terminate()
            process.wait()

    def _command(self) -> list[str]:
        return ["nginx", "-p", str(self._folder), "-c", str(self._config), "-e", str(self._folder / "error.log")]

    def _write(self, to: int) -> None:
        self._config.write_text(
            f"""pid {self._folder}/pid; worker_processes {WORKERS}; error_log {self._folder}/error.log crit;
            events {{ worker_connections 4096; }}
            http {{ access_log off; keepalive_requests 1000000; client_body_temp_path {self._folder}/body;
              proxy_temp_path {self._folder}/proxy; fastcgi_temp_path {self._folder}/fastcgi;
              uwsgi_temp_path {self._folder}/uwsgi; scgi_temp_path {self._folder}/scgi;
              upstream fleet {{ server {self._places[to]}; keepalive 64; }}
              server {{ listen {self.listen}; location / {{
                proxy_pass http://fleet; proxy_http_version 1.1; proxy_set_header connection ""; }} }} }}"""
        )


class HaProxy:
    """In master-worker mode. `reload`: a new worker reads the file, else the weights are set at run time."""

    def __init__(self, folder: Path, places: list[str], *, reload: bool) -> None:
        self.name = "HAProxy reload" if reload else "HAProxy runtime weights"
        self.listen = free_address()
        self._folder, self._places, self._reload = folder, places, reload
        self._config, self._socket = folder / "haproxy.cfg", folder / "admin.sock"
        self._process: subprocess.Popen[bytes] | None = None

    def switch(self, to: int) -> None:
        if self._reload:
            assert self._process is not None
            self._write(to)
            for _ in range(10):  # a signal that meets a reload under way is dropped by HAProxy
                self._process.send_signal(signal.SIGUSR2)
                with contextlib.suppress(TimeoutError):
                    await_answer(self.listen, f"instance-{to}", 0.5)
                    return
            raise TimeoutError("HAProxy did not reload")
        wishes = f"set weight fleet/i{to} 100; set weight fleet/i{1 - to} 0"
        answer = self._tell(f"{wishes}; get weight fleet/i{to}; get weight fleet/i{1 - to}")
        assert "100 (" in answer, answer

    @contextlib.contextmanager
    def running(self) -> Iterator[HaProxy]:
        self._folder.mkdir(parents=True)
        self._write(0)
        self._process = subprocess.Popen(
            ["haproxy", "-W", "-q", "-f", str(self._config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            await_answer(self.listen)
            yield self
        finally:
            self._process.terminate()
            self._process.wait()

    def _tell(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as admin:
            admin.settimeout(5)
            admin.connect(str(self._socket))
            admin.sendall(command.encode() + b"\n")
            answer = b""
            while block := admin.recv(4096):
                answer += block
        return answer.decode()

    def _write(self, to: int) -> None:
        servers = "\n".join(
            f" server i{n} {place} weight {100 if n == to else 0}" for n, place in enumerate(self._places)
        )
        self._config.write_text(
            f"global\n stats socket {self._socket} level admin expose-fd listeners\n nbthread {WORKERS}\n"
            "defaults\n mode http\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n"
            f"frontend f\n bind {self.listen}\n default_backend fleet\nbackend fleet\n{servers}\n"
        )


def has(program: str) -> bool:
    return shutil.which(program) is not None
