"""What `rebake init` writes for the folders that people have."""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rebake.errors import UsageError
from rebake.spec.init import Draft, draft
from rebake.spec.load import parse
from rebake.spec.model import Canary
from rebake.spec.plan import plan_for

FLASK = 'from flask import Flask\napp = Flask(__name__)\n@app.get("/up")\ndef up(): return "ok"\n'
MANAGE = 'import os\nos.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")\nimport django\n'
ARGPARSE = 'import argparse\np = argparse.ArgumentParser()\np.add_argument("--host")\np.add_argument("--port")\n'
MAIN = '\nif __name__ == "__main__":\n    main()\n'


def package(**keys: object) -> str:
    return json.dumps({"name": "@team/shop-front", **keys})


@dataclass
class Folder:
    """A folder, and what must be written for it."""

    name: str
    files: dict[str, str]
    builder: str
    command: list[str]
    health: str = "/"
    notes: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    build: str | None = None


FOLDERS = [
    Folder("datasette", {"requirements.txt": "datasette>=0.64\n", "fixtures.db": ""}, "python",
           ["python", "-m", "datasette", "serve", ".", "--host", "$HOST", "--port", "$PORT"], "/-/versions.json"),
    Folder("datasette-without-data", {"pyproject.toml": '[project]\nname = "x"\ndependencies = ["datasette"]\n'},
           "python", ["python", "-m", "datasette", "serve", ".", "--host", "$HOST", "--port", "$PORT"],
           "/-/versions.json", ["no database"]),
    Folder("django-gunicorn", {"manage.py": MANAGE, "requirements.txt": "Django==5.1\ngunicorn\n",
                               "shop/settings.py": "", "shop/wsgi.py": "",
                               "shop/urls.py": 'urlpatterns = [path("healthz/", ok)]'},
           "python", ["python", "-m", "gunicorn", "shop.wsgi:application", "--bind", "$HOST:$PORT"], "/healthz/",
           ["ALLOWED_HOSTS"]),
    Folder("django-split-settings", {"manage.py": MANAGE.replace("shop.settings", "shop.settings.prod"),
                                     "requirements.txt": "django\nuvicorn\n", "shop/asgi.py": "", "shop/wsgi.py": ""},
           "python", ["python", "-m", "uvicorn", "shop.asgi:application", "--host", "$HOST", "--port", "$PORT"],
           "/", ["ALLOWED_HOSTS", "no health route"]),
    Folder("django-alone", {"manage.py": MANAGE, "requirements.txt": "django", "shop/settings.py": "x='a.sqlite3'"},
           "python", ["python", "manage.py", "runserver", "--noreload", "$HOST:$PORT"], "/",
           ["ALLOWED_HOSTS", "gunicorn", "REBAKE_DATA"]),
    Folder("flask-gunicorn", {"app.py": FLASK, "requirements.txt": "flask\ngunicorn==23.0 ; python_version > '3'\n"},
           "python", ["python", "-m", "gunicorn", "app:app", "--bind", "$HOST:$PORT"], "/up"),
    Folder("flask-alone", {"src/web/views.py": FLASK, "pyproject.toml": '[project]\ndependencies = ["Flask"]\n'},
           "python", ["python", "-m", "flask", "--app", "web.views", "run", "--host", "$HOST", "--port", "$PORT"],
           "/up",
           ["development server"]),
    Folder("flask-factory", {"web/__init__.py": "from flask import Flask\ndef create_app():\n    return 1\n",
                             "requirements.txt": "flask\nwaitress\n"},
           "python", ["python", "-m", "waitress", "--listen", "$HOST:$PORT", "--call", "web:create_app"]),
    Folder("fastapi", {"main.py": 'from fastapi import FastAPI\napi = FastAPI(title="x")\n@api.get("/healthz")\n',
                       "pyproject.toml": '[project]\nname = "Notes API"\ndependencies = ["fastapi[standard]>=0.1"]\n'},
           "python", ["python", "-m", "uvicorn", "main:api", "--host", "$HOST", "--port", "$PORT"], "/healthz"),
    Folder("fastapi-by-lock", {"app/main.py": "from fastapi import FastAPI\napp: FastAPI = FastAPI()\n",
                               "uv.lock": '[[package]]\nname = "hypercorn"\n'},
           "python", ["python", "-m", "hypercorn", "app.main:app", "--bind", "$HOST:$PORT"]),
    Folder("streamlit", {"app.py": "import streamlit\n", "requirements.txt": "streamlit"}, "python",
           ["python", "-m", "streamlit", "run", "app.py", "--server.address", "$HOST", "--server.port", "$PORT",
            "--server.headless", "true"], "/_stcore/health"),
    Folder("console-script-with-main", {
        "pyproject.toml": '[project]\nname = "guestbook"\n[project.scripts]\nguestbook = "guestbook.cli:main"\n',
        "src/guestbook/__main__.py": "", "src/guestbook/cli.py": ARGPARSE},
           "python", ["python", "-m", "guestbook", "--host", "$HOST", "--port", "$PORT"]),
    Folder("console-script", {
        "pyproject.toml": '[project]\nname = "guest-book"\n[project.scripts]\nserve-it = "guestbook.cli:main"\n',
        "guestbook/cli.py": 'import os\nport = int(os.environ["PORT"])\n'},
           "python", ["serve-it"]),
    Folder("package", {"hello/__main__.py": "import os\nos.environ.get('PORT')\n", "hello/__init__.py": ""}, "python",
           ["python", "-m", "hello"]),
    Folder("plain-script", {"server.py": "import sys\nport = int(sys.argv[1])\n" + MAIN}, "python",
           ["python", "server.py", "$PORT"]),
    Folder("deaf-script", {"main.py": "http.server.HTTPServer(('', 8000)).serve_forever()\n"}, "python",
           ["python", "main.py"], "/", ["does not seem to read its port"]),
    Folder("procfile", {"Procfile": "worker: x\nweb: gunicorn 'shop:make()' --workers=2 -b 0.0.0.0:${PORT:-8000}\n",
                        "requirements.txt": "gunicorn"},
           "python", ["python", "-m", "gunicorn", "shop:make()", "--workers=2", "-b", "$HOST:$PORT"]),
    Folder("procfile-gunicorn-without-bind", {"Procfile": "web: exec gunicorn app\n", "requirements.txt": "gunicorn"},
           "python", ["python", "-m", "gunicorn", "app", "--bind", "$HOST:$PORT"]),
    Folder("procfile-of-a-shell", {"Procfile": "web: ./migrate && python app.py\n", "app.py": FLASK + MAIN,
                                   "requirements.txt": "flask"},
           "python", ["python", "-m", "flask", "--app", "app", "run", "--host", "$HOST", "--port", "$PORT"], "/up"),
    Folder("node-start",
           {"package.json": package(scripts={"start": "NODE_ENV=production node --enable-source-maps s.js",
                                                           "build": "tsc"},
                                                   dependencies={"express": "^4"}),
                          "package-lock.json": "{}", "s.js": "app.get('/health'); app.listen(process.env.PORT)"},
           "node", ["node", "--enable-source-maps", "s.js"], "/health", env={"NODE_ENV": "production"}, build="build"),
    Folder("node-main", {"package.json": package(main="lib/web.js"), "lib/web.js": "listen(process.env.PORT || 80)"},
           "node", ["node", "lib/web.js"]),
    Folder("node-next", {"package.json": package(scripts={"start": "next start", "build": "next build"},
                                                 dependencies={"next": "15"})},
           "node", ["next", "start", "--hostname", "$HOST", "--port", "$PORT"], "/", ["npm install"], build="build"),
    Folder("node-shell", {"package.json": package(scripts={"start": "npm run build && node ."},
           dependencies={"a": "1"}),
                          "package-lock.json": "{}", "index.js": "process.env.PORT"},
           "node", ["npm", "run", "--silent", "start"], "/", ["needs a shell"]),
    Folder("node-without-package", {"server.js": "require('http').createServer().listen(3000)"}, "node",
           ["node", "server.js"], "/", ["process.env.PORT"]),
    Folder("pages", {"index.html": "<h1>hello</h1>", "style.css": ""}, "static", [], "/", ["small server"]),
    Folder("pages-in-public", {"public/index.html": "<h1>hello</h1>"}, "static", [], "/"),
    Folder("dockerfile", {"Dockerfile": 'FROM ruby\nEXPOSE 4567\n'
                          'CMD ["ruby", "web.rb", \\\n "-o", "0.0.0.0", "-p", "4567"]\n'},
           "files", ["ruby", "web.rb", "-o", "$HOST", "-p", "$PORT"], "/", ["Dockerfile"]),
]  # fmt: skip


def fill(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, "utf-8")
    return root


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_file_of_a_folder_is_right_and_runs_what_lies_there(tmp_path: Path, folder: Folder) -> None:
    written = draft(fill(tmp_path, folder.files))
    spec = parse(written.text)
    assert (spec.bake.builder, list(spec.run.command or ())) == (folder.builder, folder.command)
    assert (spec.run.health.path, spec.run.env, spec.bake.build) == (folder.health, folder.env, folder.build)
    assert spec.bake.source == ("public" if folder.name == "pages-in-public" else ".")
    for words in folder.notes:
        assert any(words in note for note in written.notes), written.notes
    assert all(f"# Note: {note}" in written.text for note in written.notes)


@pytest.mark.parametrize("folder", FOLDERS[:1], ids=lambda folder: folder.name)
def test_the_environment_is_two_local_instances_with_a_short_canary(tmp_path: Path, folder: Folder) -> None:
    spec = parse(draft(fill(tmp_path, folder.files)).text)
    plan = plan_for(spec, "production")
    assert (plan.platform, plan.instances, plan.listen) == ("local", 2, "127.0.0.1:8080")
    assert isinstance(spec.environments["production"].strategy, Canary)
    assert (plan.strategy.steps, plan.strategy.hold_ms, plan.soak_ms) == ((500, 2500, 5000), 10_000, 600_000)
    assert "profile: default" in draft(tmp_path).text


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ({"pyproject.toml": '[project]\nname = "My_Shop"\n', "index.html": ""}, "my-shop"),
        ({"package.json": package(), "index.js": ""}, "shop-front"),
        ({"index.html": ""}, "der-k-nig"),
        ({"pyproject.toml": "[project\n", "package.json": "[1]", "index.html": ""}, "der-k-nig"),
        ({"pyproject.toml": '[project]\nname = 7\nscripts = []\ndependencies = "x"\n', "index.html": ""}, "der-k-nig"),
    ],
)
def test_the_service_is_named_after_the_project_or_the_folder(tmp_path: Path, files: dict[str, str], name: str) -> None:
    root = tmp_path / "Der König"
    root.mkdir()
    assert parse(draft(fill(root, files)).text).service == name


def test_secrets_and_tests_stay_out_of_the_release(tmp_path: Path) -> None:
    key = "-----BEGIN PRIVATE KEY-----\n"
    files = {"index.html": "", ".env": "", ".env.local": "", ".env.example": "", "tls.key": key, "tests/a.py": ""}
    written = draft(fill(tmp_path, files | {"ca.pem": "-----BEGIN CERTIFICATE-----\n"}))
    assert parse(written.text).bake.exclude == (".env", ".env.local", "tls.key", "tests")
    assert any("secrets" in note for note in written.notes)


def test_a_python_project_with_front_end_tools_is_a_python_project(tmp_path: Path) -> None:
    files = {
        "package.json": package(devDependencies={"vite": "6"}),
        "app.py": FLASK,
        "requirements.txt": "flask\ngunicorn",
    }
    assert parse(draft(fill(tmp_path, files)).text).bake.builder == "python"


def test_dependencies_and_tests_are_not_mistaken_for_the_service(tmp_path: Path) -> None:
    other = 'from flask import Flask\nother = Flask("x")\n@other.get("/healthz")\n'
    files = {"app.py": FLASK, "requirements.txt": "flask\ngunicorn"}
    files |= {f"{place}/a.py": other for place in (".venv/lib", "venv", "tests", "node_modules/x")}
    spec = parse(draft(fill(tmp_path, files)).text)
    assert spec.run.command is not None
    assert (spec.run.command[3], spec.run.health.path) == ("app:app", "/up")


def test_the_only_program_of_a_folder_is_run(tmp_path: Path) -> None:
    (tmp_path / "se$rve").write_text("#!/bin/sh\n")
    (tmp_path / "se$rve").chmod(0o755)
    spec = parse(draft(tmp_path).text)
    assert (spec.bake.builder, spec.run.command) == ("files", ("./se$$rve",))


@pytest.mark.parametrize("files", [{}, {"README.md": "x"}, {"package.json": "{"}, {"lib.py": "x = 1\n"}])
def test_a_folder_with_nothing_to_serve_says_so(tmp_path: Path, files: dict[str, str]) -> None:
    with pytest.raises(UsageError) as caught:
        draft(fill(tmp_path, files))
    assert caught.value.code == "nothing-to-serve"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        draft(tmp_path / "nowhere")
    assert caught.value.code == "no-such-folder"


_NAMES = st.sampled_from(
    ["Procfile", "package.json", "pyproject.toml", "requirements.txt", "manage.py", "app.py", "Dockerfile", "uv.lock"]
)
_PIECES = st.sampled_from(
    ["web: ", "gunicorn app ", "$X", "[project]\n", 'name = "a"\n', '{"scripts": {"start": ', '"node x.js"}}',
           "django\n",
     "'", '"', "\\", "\x85", "\u2028", "é", "CMD ", '["a", "$B"]', "\n", FLASK, MAIN, "{", "}", "]", ": "]
)  # fmt: skip


@given(st.dictionaries(_NAMES, st.lists(_PIECES, max_size=6).map("".join), min_size=1))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_files_hold_the_written_file_is_right_or_refused(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, str]
) -> None:
    root = fill(tmp_path_factory.mktemp("any"), files)
    written: Draft | None = None
    with contextlib.suppress(UsageError):
        written = draft(root, engine=len(files) % 2 == 0)
    if written is None:
        return
    parse(written.text)
    assert not re.search(r"[^\n\x20-\x7e\xa0-\U0010ffff]", written.text)


RUBY = {"Dockerfile": "FROM ruby AS base\nEXPOSE 4567/tcp\nCMD ruby web.rb\n", "public/index.html": "<h1>hello</h1>"}


def test_where_an_engine_answers_the_image_of_a_dockerfile_is_served(tmp_path: Path) -> None:
    written = draft(fill(tmp_path, RUBY), engine=True)
    spec = parse(written.text)
    plan = plan_for(spec, "production")
    assert (spec.bake.builder, spec.run.command, plan.platform) == ("dockerfile", None, "docker")
    assert any("port 4567" in note for note in written.notes)


def test_without_an_engine_a_dockerfile_only_tells_what_is_run(tmp_path: Path) -> None:
    spec = parse(draft(fill(tmp_path, RUBY), engine=False).text)
    assert (spec.bake.builder, plan_for(spec, "production").platform) == ("static", "local")


@pytest.mark.parametrize(
    "more", [{"app.py": FLASK, "requirements.txt": "flask\ngunicorn"}, {"Procfile": "web: ./a $PORT"}]
)
def test_what_says_more_plainly_how_it_is_run_wins_over_a_dockerfile(tmp_path: Path, more: dict[str, str]) -> None:
    assert parse(draft(fill(tmp_path, RUBY | more), engine=True).text).bake.builder != "dockerfile"


def test_a_dockerfile_without_a_port_is_told_one(tmp_path: Path) -> None:
    written = draft(fill(tmp_path, {"Dockerfile": "FROM scratch\nCOPY serve /serve\n"}), engine=True)
    assert any("8080 (told as $PORT)" in note for note in written.notes)


def test_a_procfile_with_only_a_worker_line_is_a_worker(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("worker: python -m shop.work --queue mail\n")
    (tmp_path / "requirements.txt").write_text("")
    text = draft(tmp_path).text
    spec = parse(text)
    assert spec.run.kind == "worker"
    assert spec.run.command == ("python", "-m", "shop.work", "--queue", "mail")
    assert spec.environments["production"].listen is None
    assert plan_for(spec, "production").run.health.path == ""


def test_a_web_line_wins_over_a_worker_line(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("worker: python work.py\nweb: python serve.py $PORT\n")
    assert parse(draft(tmp_path).text).run.kind == "http"
