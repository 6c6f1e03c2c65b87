"""`builder: static`: what its server answers, and that it needs nothing but the files and a Python."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import pytest

from rebake.bake.builders.static import PROGRAM, StaticBuilder
from rebake.bake.ports import BakeRequest
from rebake.release.manifest import RunContract
from rebake.release.store import Store
from rebake.tour.stage import free_ports
from tests.unit.bake.conftest import Bake, write

SITE = {
    "index.html": "<h1>home</h1>",
    "style.css": "h1 {}",
    "docs/index.html": "docs",
    "docs/a b.txt": "text",
    "empty/file": "",
    ".hidden": "secret",
    "404.html": "nothing here",
}


def test_the_server_is_part_of_the_release_and_its_command_where_the_file_says_none(
    bake: Bake, source: Path, store: Store
) -> None:
    write(source, SITE)
    release = bake(source, builder="static", run=RunContract(())).release
    assert release.run.command == (PROGRAM,)
    assert release.runtime.kind == "python"
    assert f"deps/bin/{PROGRAM}" in [entry.path for entry in store.files(release)]
    assert bake(source, builder="static", run=RunContract(("mine",))).release.run.command == ("mine",)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[HTTPConnection]:
    """A connection to the server over the files of SITE; a folder beside them holds what must not be seen."""
    root = write(tmp_path / "site", SITE)
    write(tmp_path, {"outside": "secret"})
    (root / "way-out").symlink_to(tmp_path / "outside")
    request = BakeRequest("s", "static", root, RunContract(()))
    (item,) = StaticBuilder().application(request, False).extra
    program = tmp_path / PROGRAM
    program.write_bytes(item.content or b"")
    port = free_ports(1)[0]
    environ = {**os.environ, "HOST": "127.0.0.1", "PORT": str(port)}
    process = subprocess.Popen([sys.executable, "-I", str(program)], cwd=root, env=environ, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5).close()
            break
        except urllib.error.URLError:
            assert time.monotonic() < deadline
            assert process.poll() is None
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    yield connection
    connection.close()
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0


def ask(site: HTTPConnection, path: str, method: str = "GET", **headers: str) -> tuple[HTTPResponse, bytes]:
    site.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = site.getresponse()
    return answer, answer.read()


def test_files_and_folders_are_served_on_one_connection(site: HTTPConnection) -> None:
    for path, body, kind in (
        ("/", b"<h1>home</h1>", "text/html; charset=utf-8"),
        ("/style.css?v=1", b"h1 {}", "text/css; charset=utf-8"),
        ("/docs/", b"docs", "text/html; charset=utf-8"),
        ("/docs/a%20b.txt", b"text", "text/plain; charset=utf-8"),
    ):
        answer, found = ask(site, path)
        assert (answer.status, found, answer.headers["Content-Type"]) == (200, body, kind)
    answer, found = ask(site, "/", "HEAD")
    assert (answer.status, found, answer.headers["Content-Length"]) == (200, b"", "13")


def test_a_folder_without_its_slash_is_sent_on_within_the_site(site: HTTPConnection) -> None:
    answer, _ = ask(site, "/docs")
    assert (answer.status, answer.headers["Location"]) == (308, "/docs/")
    answer, _ = ask(site, "//docs")
    assert answer.headers["Location"] == "/docs/", "never to another host"


@pytest.mark.parametrize(
    "path",
    ["/.hidden", "/nothing", "/empty/", "/empty", "/../outside", "/%2e%2e/outside", "/docs/../../outside", "/way-out",
     "/x%00", "/style.css/"],
)  # fmt: skip
def test_what_is_hidden_outside_or_not_there_is_not_found(site: HTTPConnection, path: str) -> None:
    answer, body = ask(site, path)
    assert (answer.status, body) == (404, b"nothing here")


def test_who_has_the_file_already_is_told_so(site: HTTPConnection) -> None:
    etag = ask(site, "/style.css")[0].headers["ETag"]
    answer, body = ask(site, "/style.css", If_None_Match=etag)
    assert (answer.status, body) == (304, b"")
    assert ask(site, "/style.css", If_None_Match='"other"')[0].status == 200


def test_its_health_is_asked_for_at_the_usual_path(site: HTTPConnection) -> None:
    assert ask(site, "/healthz")[0].status == 200
    assert ask(site, "/", "POST")[0].status == 501
