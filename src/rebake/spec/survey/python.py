"""How a Python project is probably run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

from rebake.spec.survey.folder import Folder, Guess, Source, literal, mapping
from rebake.spec.survey.routes import port_arguments

_LISTS = ("pyproject.toml", "uv.lock", "pylock.toml", "requirements.txt")
_APPLICATION = re.compile(
    r"(?m)^(\w+)[ \t]*(?::[^=\n]+)?=[ \t]*(?:\w+\.)*(Flask|FastAPI|Starlette|Quart|Litestar|Bottle)\("
)
_FACTORY = re.compile(r"(?m)^(?:async )?def (create_app|make_app|get_app|build_app)\(")
_FRAMEWORK = re.compile(r"(?m)^\s*(?:from|import) (flask|fastapi|starlette|quart|litestar|bottle)\b")
_ASGI = {"fastapi", "starlette", "quart", "litestar"}
_SCRIPTS = ("server", "app", "main", "run", "serve", "service", "web", "wsgi", "asgi")
_MAIN = re.compile(r"""(?m)^if __name__ == ["']__main__["']""")
_SERVES = re.compile(r"serve_forever\(|\.run\(|run_app\(|run_simple\(|HTTPServer\(|make_server\(")


@dataclass(frozen=True)
class App:
    """An application object or factory: `guestbook.web:app`."""

    module: str
    name: str
    framework: str
    factory: bool = False

    @property
    def called(self) -> str:
        return f"{self.module}:{self.name}"


class Project:
    """A Python project: its dependencies, modules and applications."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.pyproject = folder.toml("pyproject.toml")
        self.is_declared = any(folder.has(name) for name in _LISTS)

    @cached_property
    def packages(self) -> set[str]:
        """The names of everything that will be installed, as far as the files tell, normalised."""
        return {re.sub(r"[-_.]+", "-", name).lower() for name in self._names() if name}

    def _names(self) -> Iterator[str]:
        project = mapping(self.pyproject.get("project"))
        declared = project.get("dependencies")
        for requirement in declared if isinstance(declared, list) else ():
            yield from _named(str(requirement))
        yield from mapping(mapping(mapping(self.pyproject.get("tool")).get("poetry")).get("dependencies"))
        for line in self.folder.text("requirements.txt").splitlines():
            if not line.lstrip().startswith(("#", "-")):
                yield from _named(line)
        for lock in ("uv.lock", "pylock.toml"):
            content = self.folder.toml(lock)
            packages = content.get("package") or content.get("packages")
            for package in packages if isinstance(packages, list) else ():
                yield str(mapping(package).get("name", ""))

    @cached_property
    def sources(self) -> list[Source]:
        return [source for source in self.folder.sources if source.path.endswith(".py")]

    @cached_property
    def apps(self) -> list[App]:
        """Every application found; objects before factories, shallow before deep."""
        found = [app for source in self.sources for app in _apps(source)]
        return sorted(found, key=lambda app: (app.factory, app.module.count("."), not app.module.endswith(_SCRIPTS)))

    def module_file(self, module: str) -> Source | None:
        """The source of a module, wherever the project keeps it."""
        names = {module.replace(".", "/") + ending for ending in (".py", "/__init__.py")}
        return next((s for s in self.sources if s.path.removeprefix("src/") in names), None)


def _named(requirement: str) -> Iterator[str]:
    """The distributions a requirement line names: `fastapi[standard]` brings uvicorn."""
    match = re.match(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(\[[^\]]*\])?", requirement)
    if match:
        yield match[1]
        extras = match[2] or ""
        if match[1].lower() == "fastapi" and ("standard" in extras or "all" in extras):
            yield "uvicorn"


def module_of(path: str) -> str:
    """`src/guestbook/web.py` is `guestbook.web`."""
    pure = PurePosixPath(path.removeprefix("src/")).with_suffix("")
    parts = pure.parts[:-1] if pure.name == "__init__" else pure.parts
    return ".".join(parts)


def _apps(source: Source) -> Iterator[App]:
    module = module_of(source.path)
    if not re.fullmatch(r"\w+(\.\w+)*", module):
        return
    for match in _APPLICATION.finditer(source.text):
        yield App(module, match[1], match[2].lower())
    framework = _FRAMEWORK.search(source.text)
    factory = _FACTORY.search(source.text)
    if framework and factory:
        yield App(module, factory[1], framework[1], factory=True)


# --- guesses, best first ---------------------------------------------------------------------------------------------


def guess(folder: Folder) -> Guess | None:
    """How it is probably run, or None when it does not look like a Python service."""
    project = Project(folder)
    for attempt in (_datasette, _streamlit, _django, _web_app, _console_script, _package, _script):
        if found := attempt(project):
            return found
    return None


def _python(*command: str) -> tuple[str, ...]:
    return ("python", *command)


def _datasette(project: Project) -> Guess | None:
    if "datasette" not in project.packages:
        return None
    command = _python("-m", "datasette", "serve", ".", "--host", "$HOST", "--port", "$PORT")
    notes: tuple[str, ...] = ()
    if not any(path.endswith((".db", ".sqlite", ".sqlite3")) for path in project.folder.paths):
        notes = ("no database (*.db) lies in the folder yet; datasette serves every one that it finds there",)
    return Guess("python", command, "datasette is a dependency", health="/-/versions.json", notes=notes)


def _streamlit(project: Project) -> Guess | None:
    script = next((name for name in ("streamlit_app.py", "app.py", "main.py") if project.folder.has(name)), None)
    if "streamlit" not in project.packages or script is None:
        return None
    flags = ("--server.address", "$HOST", "--server.port", "$PORT", "--server.headless", "true")
    return Guess(
        "python", _python("-m", "streamlit", "run", script, *flags), "streamlit is a dependency", "/_stcore/health"
    )


def _django(project: Project) -> Guess | None:
    manage = project.folder.text("manage.py")
    if "django" not in manage.lower():
        return None
    notes = ("Django answers only hosts that ALLOWED_HOSTS names: 127.0.0.1 must be one of them for health questions",)
    for kind in ("wsgi", "asgi"):
        module = _django_module(project, manage, kind)
        name = f"{module}:application"
        command = serve(project, App(module, "application", "django"), asgi=kind == "asgi") if module else None
        if command:
            return Guess("python", command, f"manage.py and {name}", notes=notes)
    own = "Django's own development server is used; add gunicorn to the dependencies for production"
    command = _python("manage.py", "runserver", "--noreload", "$HOST:$PORT")
    return Guess("python", command, "manage.py", notes=(*notes, own))


def _django_module(project: Project, manage: str, kind: str) -> str | None:
    """The module with the application: beside the settings, else the shallowest of that name."""
    named = re.search(r"""DJANGO_SETTINGS_MODULE["']\s*,\s*["']([\w.]+)["']""", manage)
    if named:
        parts = named[1].split(".")
        for end in range(len(parts), 0, -1):
            module = ".".join([*parts[:end], kind])
            if project.module_file(module):
                return module
    return next((module_of(s.path) for s in project.sources if s.path.endswith(f"/{kind}.py")), None)


def serve(project: Project, app: App, *, asgi: bool) -> tuple[str, ...] | None:
    """The command of the first server among the dependencies that speaks the application's protocol."""
    call = f"{app.called}()" if app.factory else app.called
    factory = ("--factory",) if app.factory else ()
    bind = ("--bind", "$HOST:$PORT")
    apart = ("--host", "$HOST", "--port", "$PORT")
    waitress = ("--listen", "$HOST:$PORT", *(("--call",) if app.factory else ()), app.called)
    servers: dict[str, tuple[str, ...]] = {
        "uvicorn": ("-m", "uvicorn", app.called, *factory, *apart),
        "hypercorn": ("-m", "hypercorn", call, *bind),
        "granian": ("-m", "granian", "--interface", "asgi", *factory, *apart, app.called),
    }
    if not asgi:
        servers = {"gunicorn": ("-m", "gunicorn", call, *bind), "waitress": ("-m", "waitress", *waitress)}
    return next((_python(*command) for name, command in servers.items() if name in project.packages), None)


def _web_app(project: Project) -> Guess | None:
    for app in project.apps:
        because = f"{app.called} is a {app.framework} application"
        asgi = app.framework in _ASGI
        if command := serve(project, app, asgi=asgi):
            return Guess("python", command, because)
        if app.framework == "flask" and "flask" in project.packages:
            command = _python("-m", "flask", "--app", app.module, "run", "--host", "$HOST", "--port", "$PORT")
            note = "Flask's own development server is used; add gunicorn to the dependencies for production"
            return Guess("python", command, because, notes=(note,))
        if asgi and not _script(project):
            command = _python("-m", "uvicorn", app.called, "--host", "$HOST", "--port", "$PORT")
            note = "no server is among the dependencies: add uvicorn before you deploy"
            return Guess("python", command, because, notes=(note,))
    return None


def _console_script(project: Project) -> Guess | None:
    """The entry of [project.scripts] that has the project's name, or the only one."""
    declared = mapping(project.pyproject.get("project"))
    scripts = mapping(declared.get("scripts"))
    name = str(declared.get("name", ""))
    chosen = name if name in scripts or len(scripts) != 1 else next(iter(scripts))
    match = re.fullmatch(r"\s*([\w.]+)\s*:\s*([\w.]+)\s*", str(scripts.get(chosen, "")))
    if match is None:
        return None
    package = match[1].partition(".")[0]
    command = _python("-m", package) if project.module_file(f"{package}.__main__") else (chosen,)
    texts = [s.text for s in project.sources if module_of(s.path).partition(".")[0] == package]
    return _with_port(command, texts, f"the script {chosen} of pyproject.toml")


def _package(project: Project) -> Guess | None:
    """A package that `python -m` runs."""
    mains = [s for s in project.sources if re.fullmatch(r"(src/)?\w+/__main__\.py", s.path)]
    if len(mains) != 1:
        return None
    package = module_of(mains[0].path).partition(".")[0]
    texts = [s.text for s in project.sources if module_of(s.path).partition(".")[0] == package]
    return _with_port(_python("-m", package), texts, f"{mains[0].path}")


def _script(project: Project) -> Guess | None:
    """A file that serves when it is run; with a usual name, or the only one."""
    flat = [s for s in project.sources if "/" not in s.path.removeprefix("src/")]
    runs = [s for s in flat if _MAIN.search(s.text) or _SERVES.search(s.text)]
    named = {s.path.removeprefix("src/").removesuffix(".py"): s for s in runs}
    chosen = next((named[name] for name in _SCRIPTS if name in named), runs[0] if len(runs) == 1 else None)
    if chosen is None:
        return None
    return _with_port(_python(literal(chosen.path)), [chosen.text], chosen.path)


def _with_port(command: tuple[str, ...], texts: list[str], because: str) -> Guess:
    arguments = port_arguments(texts)
    notes: tuple[str, ...] = ()
    if arguments is None:
        reads = f"{because} does not seem to read its port: let it listen on the environment variables HOST and PORT, "
        notes = (reads + "or write its own arguments into run.command, such as --port, $PORT",)
    return Guess("python", (*command, *(arguments or ())), because, notes=notes)
