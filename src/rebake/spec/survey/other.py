"""What else says how a folder is run: a Procfile, a Dockerfile, pages without a program, one executable."""

from __future__ import annotations

import json
import re
import stat

from rebake.spec.survey.folder import Folder, Guess, literal
from rebake.spec.survey.python import Project
from rebake.spec.survey.routes import reads_port
from rebake.spec.survey.words import words_of

_PYTHON_TOOLS = ("gunicorn", "uvicorn", "hypercorn", "waitress", "flask", "datasette", "daphne", "granian", "streamlit")
_SITES = ("", "public", "site", "html", "www", "htdocs", "dist")


def procfile(folder: Folder) -> Guess | None:
    """The web line of a Procfile."""
    line = re.search(r"(?m)^web:[ \t]*(\S.*)$", folder.text("Procfile"))
    if line is None:
        return None
    words = _words(line[1])
    if not words:
        return None
    notes: tuple[str, ...] = ()
    command = _bound(words)
    if not any("$PORT" in word for word in command) and not reads_port(source.text for source in folder.sources):
        notes = ("the web line of Procfile does not name $PORT: the program must read PORT from its environment",)
    return Guess(_builder(folder, command), command, "the web line of Procfile", notes=notes)


def worker(folder: Folder) -> Guess | None:
    """The worker line of a Procfile that has no web line."""
    line = re.search(r"(?m)^worker:[ \t]*(\S.*)$", folder.text("Procfile"))
    words = _words(line[1]) if line is not None else ()
    if not words:
        return None
    return Guess(_builder(folder, words), words, "the worker line of Procfile", health="", worker=True)


def _words(line: str) -> tuple[str, ...]:
    """The line as a command without a shell; nothing when only a shell can read it."""
    line = re.sub(r"\$\{(\w+):-[^}]*\}", r"$\1", line).replace("${PORT}", "$PORT")
    words = words_of(line) or []
    if words[:1] == ["exec"]:
        words = words[1:]
    if not words or "=" in words[0] or set(re.findall(r"\$\{?(\w+)", line)) - {"PORT", "HOST"}:
        return ()
    if words[0] in _PYTHON_TOOLS:
        words = ["python", "-m", *words]
    if words[0] in ("python3", "python"):
        words[0] = "python"
    return tuple(word.replace("0.0.0.0", "$HOST") for word in words)


def _bound(words: tuple[str, ...]) -> tuple[str, ...]:
    """Gunicorn listens on every interface by itself; the instance's own address is enough."""
    if words[1:3] != ("-m", "gunicorn") or any(w in ("-b", "--bind") or w.startswith("--bind=") for w in words):
        return words
    return (*words, "--bind", "$HOST:$PORT")


def _builder(folder: Folder, command: tuple[str, ...]) -> str:
    """The builder whose runtime the command needs."""
    if command[0].startswith("python") or Project(folder).is_declared:
        return "python"
    return "node" if command[0] in ("node", "npm") or folder.has("package.json") else "files"


def pages(folder: Folder) -> Guess | None:
    """A folder of pages, served by the small server of `builder: static`."""
    site = next((name for name in _SITES if folder.has(f"{name}/index.html".lstrip("/"))), None)
    if site is None:
        return None
    note = "a small server of Python's own library is used: right for a few users; put a web server in for many"
    found = f"{site}/index.html".lstrip("/")
    return Guess("static", (), found, health="/", source=site or ".", notes=(note,))


def image(folder: Folder) -> Guess | None:
    """A Dockerfile, where a container engine is there to build and run it: what it makes is served as it is."""
    text = folder.text("Dockerfile").replace("\\\n", " ")
    if not re.search(r"(?mi)^\s*FROM\s+\S", text):
        return None
    port = _exposed(text) or "8080 (told as $PORT), since it names none"
    note = f"the image that the Dockerfile makes is run: it must listen on every interface, on port {port}"
    return Guess("dockerfile", (), "Dockerfile", platform="docker", notes=(note,))


def _exposed(text: str) -> int | None:
    found = re.search(r"(?mi)^\s*EXPOSE\s+(\d{1,5})\b", text)
    return int(found[1]) if found and 0 < int(found[1]) < 65536 else None


def dockerfile(folder: Folder) -> Guess | None:
    """The last CMD (after ENTRYPOINT) of a Dockerfile, where it is a list; for a machine without an engine."""
    text = folder.text("Dockerfile").replace("\\\n", " ")
    command = (*_instruction(text, "ENTRYPOINT"), *_instruction(text, "CMD"))
    if not command:
        return None
    port = _exposed(text)
    hint = f" (it exposes port {port})" if port else ""
    notes = (
        f"the command is the Dockerfile's{hint}; make sure that it listens on $PORT and its program is installed here",
    )
    words = tuple(re.sub(rf"\b{port}\b", "$PORT", word) if port else word for word in command)
    words = tuple(word.replace("0.0.0.0", "$HOST").replace("/app/", "") for word in words)
    words = ("python", *words[1:]) if words[0] in ("python3", "/usr/bin/python3") else words
    return Guess(_builder(folder, words), tuple(_escaped(word) for word in words), "Dockerfile", notes=notes)


def _escaped(word: str) -> str:
    return re.sub(r"\$(?!PORT\b|HOST\b|\$)", "$$$$", word)


def _instruction(text: str, name: str) -> tuple[str, ...]:
    found = re.findall(rf"(?mi)^\s*{name}\s+(\[.*\])\s*$", text)
    try:
        words = json.loads(found[-1]) if found else []
    except ValueError:
        return ()
    return tuple(words) if all(isinstance(word, str) and word.strip() for word in words) else ()


def executable(folder: Folder) -> Guess | None:
    """The only program that lies there."""
    found = [name for name in folder.names if not name.startswith(".") and _is_program(folder, name)]
    if len(found) != 1:
        return None
    note = f"./{found[0]} must listen on the environment variables HOST and PORT, or be told them in run.command"
    return Guess("files", (f"./{literal(found[0])}",), f"the program {found[0]}", notes=(note,))


def _is_program(folder: Folder, name: str) -> bool:
    try:
        status = (folder.root / name).stat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and bool(status.st_mode & 0o100)
