"""How a Node project is probably run."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from rebake.spec.survey.folder import Folder, Guess, literal, mapping
from rebake.spec.survey.routes import reads_port
from rebake.spec.survey.words import words_of

_USUAL = ("server.js", "index.js", "app.js", "main.js", "server.mjs", "index.mjs", "src/server.js", "src/index.js")
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
_PORT_FLAGS = {
    "next": ("--hostname", "$HOST", "--port", "$PORT"),
    "vite": ("--host", "$HOST", "--port", "$PORT"),
    "astro": ("--host", "$HOST", "--port", "$PORT"),
    "http-server": ("-a", "$HOST", "-p", "$PORT"),
    "serve": ("-l", "tcp://$HOST:$PORT"),
}
"""Programs that take their port from the command line."""
_READ_PORT = ("nuxt", "remix-serve", "react-router-serve", "nest", "strapi", "fastify", "nuxi")
"""Programs that read PORT themselves."""


def guess(folder: Folder) -> Guess | None:
    """How it is probably run, or None when it does not look like a Node service."""
    package = folder.json("package.json")
    scripts = mapping(package.get("scripts"))
    start = scripts.get("start")
    if isinstance(start, str) and start.strip():
        return _from_script(folder, package, start)
    main = package.get("main")
    names = [main] if isinstance(main, str) else []
    if "server.js" in folder.names:  # what `npm start` runs when there is no such script
        names.insert(0, "server.js")
    chosen = next((name for name in (*names, *_USUAL) if folder.has(name)), None)
    if chosen is None:
        return None
    return _guess(folder, package, Guess("node", ("node", literal(chosen)), chosen))


def _from_script(folder: Folder, package: dict[str, Any], start: str) -> Guess:
    """The start script as a command of its own: npm between rebake and the program would swallow signals."""
    because = "the start script of package.json"
    words = words_of(start) or []
    env: dict[str, str] = {}
    while words and (match := _ASSIGNMENT.fullmatch(words[0])):
        env[match[1]] = match[2]
        words.pop(0)
    if words[:1] == ["cross-env"]:
        return _from_script(folder, package, start.partition("cross-env")[2])
    if not words or "$" in start or words[0] in ("npm", "yarn", "pnpm"):
        notes = (
            "the start script needs a shell, so npm runs it; write the program itself into run.command if you can",
        )
        return _guess(folder, package, Guess("node", ("npm", "run", "--silent", "start"), because, notes=notes))
    program = words[0].rpartition("/")[2]
    given = any(word in ("-p", "--port", "-l") or word.startswith("--port=") for word in words)
    flags = () if given else _PORT_FLAGS.get(program, ())
    return _guess(folder, package, Guess("node", (*words, *flags), because, env=_usable(env)))


def _guess(folder: Folder, package: dict[str, Any], guess: Guess) -> Guess:
    """With the build script, and with what a person should know."""
    scripts = mapping(package.get("scripts"))
    needs_install = bool(mapping(package.get("dependencies")) or mapping(package.get("devDependencies")))
    locked = any(folder.has(name) for name in ("package-lock.json", "npm-shrinkwrap.json"))
    notes = guess.notes
    if needs_install and not locked:
        notes += ("run `npm install` once, so that package-lock.json names the exact dependencies",)
    if not _listens(folder, guess.command):
        notes += (f"{guess.because} does not seem to read its port: let it listen on process.env.PORT",)
    build = "build" if isinstance(scripts.get("build"), str) and needs_install else None
    return replace(guess, build=build, notes=notes)


def _usable(env: dict[str, str]) -> dict[str, str]:
    """Without what rebake sets itself."""
    return {name: value for name, value in env.items() if name not in ("PORT", "HOST", "HOME", "TMPDIR", "PATH")}


def _listens(folder: Folder, command: tuple[str, ...]) -> bool:
    program = command[0].rpartition("/")[2]
    told = any("$PORT" in word for word in command) or program in _READ_PORT
    return told or reads_port(source.text for source in folder.sources)
