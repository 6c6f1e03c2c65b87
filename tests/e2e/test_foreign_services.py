"""Services that nobody here wrote, from `rebake init` on: deployed, changed under load, broken and put back."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from rebake.tour.load import Load, Request
from tests.e2e.site import Site, until

pytestmark = pytest.mark.real


@dataclass(frozen=True)
class Foreign:
    """A service made by its own tools, one change of it and one that cannot start."""

    make: Callable[[Path], None]
    change: Callable[[Path], None]
    break_it: Callable[[Path], object]
    path: str
    first: str  # what its answer to `path` says
    second: str  # and after the change
    complaint: str  # what its log says once it is broken


def _uvx(folder: Path, package: str, *words: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "uv", "tool", "run", "--quiet", "--from", package, *words], cwd=folder, check=True
    )


def _edit(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text, text
    path.write_text(text.replace(before, after, 1))


def _django(folder: Path) -> None:
    _uvx(folder, "django", "django-admin", "startproject", "mysite", ".")
    (folder / "requirements.txt").write_text("django\ngunicorn\n")


def _django_view(folder: Path) -> None:
    _edit(folder / "mysite/urls.py", "urlpatterns = [", "from django.http import HttpResponse\nurlpatterns = [")
    _edit(folder / "mysite/urls.py", "[\n", "[\n    path('', lambda request: HttpResponse('our own page')),\n")


def _datasette(folder: Path) -> None:
    with sqlite3.connect(folder / "catalogue.db") as database:
        database.execute("CREATE TABLE books (id INTEGER PRIMARY KEY, title TEXT)")
        database.execute("INSERT INTO books (title) VALUES ('Middlemarch')")
    database.close()
    (folder / "requirements.txt").write_text("datasette\n")


def _another_book(folder: Path) -> None:
    with sqlite3.connect(folder / "catalogue.db") as database:
        database.execute("UPDATE books SET title = 'Persuasion'")
    database.close()


EXPRESS = """\
const express = require('express')
const app = express()
app.get('/', (req, res) => res.send('Hello World!'))
app.listen(process.env.PORT, process.env.HOST)
"""


def _node(folder: Path) -> None:
    (folder / "server.js").write_text(EXPRESS)
    package = {
        "name": "hello",
        "version": "1.0.0",
        "scripts": {"start": "node server.js"},
        "dependencies": {"express": "^4"},
    }
    (folder / "package.json").write_text(json.dumps(package))
    subprocess.run(["npm", "install", "--silent", "--package-lock-only", "--no-audit"], cwd=folder, check=True)


SERVICES = {
    "django": Foreign(
        _django,
        _django_view,
        lambda folder: _edit(folder / "mysite/settings.py", "'django.contrib.admin'", "'django.contrib.nothing'"),
        "/",
        "The install worked successfully",
        "our own page",
        "No module named 'django.contrib.nothing'",
    ),
    "datasette": Foreign(
        _datasette,
        _another_book,
        lambda folder: (folder / "catalogue.db").write_bytes(b"this is no database" * 100),
        "/catalogue/books.json?_shape=array",
        "Middlemarch",
        "Persuasion",
        "file is not a database",
    ),
    "express": Foreign(
        _node,
        lambda folder: _edit(folder / "server.js", "Hello World!", "Hello again!"),
        lambda folder: _edit(folder / "server.js", "require('express')", "require('exprss')"),
        "/",
        "Hello World!",
        "Hello again!",
        "Cannot find module 'exprss'",
    ),
}


@pytest.fixture(params=sorted(SERVICES))
def foreign(request: pytest.FixtureRequest, site: Site) -> Foreign:
    """The service, in the site's own folder, described by nobody but `rebake init`."""
    if request.param == "express" and not shutil.which("npm"):
        pytest.skip("no npm on this machine; install it: apt-get install nodejs npm")
    shutil.rmtree(site.folder)
    site.folder.mkdir()
    service = SERVICES[request.param]
    service.make(site.folder)
    return service


def _answer(site: Site, service: Foreign) -> str:
    status, text = site.get(service.path)
    assert status == 200, text
    return text


def test_from_init_to_a_change_under_load_a_broken_change_and_back(site: Site, foreign: Foreign) -> None:
    written = site.rebake("init")
    assert written.code == 0, written.err
    _edit(site.folder / "rebake.yaml", "127.0.0.1:8080", f"127.0.0.1:{site.port}")
    first = site.deploy()
    assert first.code == 0, first.err
    assert foreign.first in _answer(site, foreign)
    foreign.change(site.folder)
    _edit(
        site.folder / "rebake.yaml",
        "{canary: {steps: [5%, 25%, 50%], hold: 10s}}",
        "{canary: {steps: [50%], hold: 500ms}}",
    )
    with Load(site.url, 50, (Request(foreign.path),)) as load:
        assert site.rebake("deploy", "production", "--detach").code == 0
        until(lambda: (site.status()["rollout"] or {}).get("state") in ("launching", "shifting", "holding", "soaking"))
        site.kill_agent()
        second = site.deploy()
        assert second.code == 0, second.err
        until(lambda: foreign.second in _answer(site, foreign))  # one caller in five stays on stable during the soak
        foreign.break_it(site.folder)
        broken = site.deploy()
        assert broken.code == 3, broken.err
        assert foreign.complaint in broken.err
        assert foreign.second in _answer(site, foreign)
        undone = site.rebake("undo", "production", "--json")
        assert undone.code == 0, undone.err
        assert foreign.first in _answer(site, foreign)
        report = load.stop()
    assert report.lost == 0, report.losses
    assert report.errors == 0
    assert site.rebake("ledger", "verify").code == 0
