"""What `rebake init` writes really serves: the guessed command is run and its health path answers."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from rebake.bake.builders import static_server
from rebake.spec.init import draft
from rebake.spec.load import parse

from .test_spec_init import fill

SERVER = """\
import {imports}
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/healthz" else 404)
        self.end_headers()
def main():
    {read}
    HTTPServer((host, port), Handler).serve_forever()
if __name__ == "__main__":
    main()
"""
BY_ENVIRONMENT = SERVER.format(imports="os", read='host, port = os.environ["HOST"], int(os.environ["PORT"])')
BY_ARGUMENTS = SERVER.format(
    imports="argparse",
    read='p = argparse.ArgumentParser(); p.add_argument("--bind"); p.add_argument("--port", type=int); '
    "a = p.parse_args(); host, port = a.bind, a.port",
)
NODE = """\
require("http").createServer((q, a) => { a.statusCode = q.url === "/up" ? 200 : 404; a.end() })
  .listen(process.env.PORT, process.env.HOST)
"""

FOLDERS = {
    "pages": {"index.html": "<h1>hello</h1>"},
    "pages-in-a-folder": {"public/index.html": "<h1>hello</h1>"},
    "script-by-environment": {"server.py": BY_ENVIRONMENT},
    "script-by-arguments": {"app.py": BY_ARGUMENTS},
    "package-under-src": {"src/hello/__init__.py": "", "src/hello/__main__.py": BY_ARGUMENTS},
    "procfile": {"Procfile": "web: python3 run_it.py --bind 0.0.0.0 --port ${PORT:-80}\n", "run_it.py": BY_ARGUMENTS},
    "node": {"package.json": '{"scripts": {"start": "node web.js"}}', "web.js": NODE},
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def status_of(url: str, process: subprocess.Popen[bytes]) -> int:
    """The first answer within ten seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            select_wait(process)
    raise AssertionError(f"no answer from {url}; exit {process.poll()}")


def select_wait(process: subprocess.Popen[bytes]) -> None:
    """Give it a moment, or less when it ends."""
    try:
        process.wait(0.05)
    except subprocess.TimeoutExpired:
        return


@pytest.mark.real
@pytest.mark.parametrize("name", FOLDERS)
def test_the_guessed_command_serves_and_its_health_path_answers(tmp_path: Path, name: str) -> None:
    spec = parse(draft(fill(tmp_path, FOLDERS[name])).text)
    run = spec.run
    runtimes = {"python": sys.executable, "node": shutil.which("node") or "node"}
    command = run.command or ("python", static_server.__file__)
    if command[0] == "node" and not shutil.which("node"):
        pytest.skip("there is no node on this machine")
    port = free_port()
    words = [word.replace("$PORT", str(port)).replace("$HOST", "127.0.0.1") for word in command]
    env = {
        "PATH": os.environ["PATH"],
        "PORT": str(port),
        "HOST": "127.0.0.1",
        "PYTHONPATH": f"{tmp_path}:{tmp_path}/src",
    }
    process = subprocess.Popen(
        [runtimes.get(words[0], words[0]), *words[1:]],
        cwd=tmp_path / spec.bake.source,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert status_of(f"http://127.0.0.1:{port}{run.health.path}", process) == 200
    finally:
        process.kill()
        process.wait()
