"""Writes the first rebake.yaml of a folder: commented, and such that it deploys as it is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from rebake.errors import UsageError
from rebake.spec.fields import sanitised
from rebake.spec.report import flow, quoted
from rebake.spec.survey import node, other, python
from rebake.spec.survey.folder import Folder, Guess, mapping
from rebake.spec.survey.routes import health_path, keeps_state


@dataclass(frozen=True, slots=True)
class Draft:
    """A file to write, and what the person should know.

    Attributes:
        text: the whole rebake.yaml.
        notes: sentences for the terminal; they stand in the file's comments too.
    """

    text: str
    notes: tuple[str, ...]


def draft(folder: Path, *, engine: bool = False) -> Draft:
    """Look at a folder and write the file for what lies there.

    Args:
        engine: a container engine answers on this machine.
    Raises: UsageError `no-such-folder`, or `nothing-to-serve` when nothing there looks like an HTTP service.
    """
    if not folder.is_dir():
        raise UsageError(
            "no-such-folder", f"expected a folder, found none at {folder}", remedy="name the source's folder"
        )
    seen = Folder(folder)
    guess = _guess(seen, engine)
    if guess is None:
        raise UsageError(
            "nothing-to-serve",
            "expected something that serves HTTP (Python, Node, a Procfile, a Dockerfile, pages), "
            f"found nothing of it in {folder}",
            where=str(folder),
            remedy="run it in your service's folder, or write rebake.yaml by hand: docs/rebake-yaml.md begins with one",
        )
    health = "" if guess.worker else guess.health or health_path(seen)
    notes = [*guess.notes, *_more_notes(seen, health)]
    return Draft(render(_name(seen), guess, health or "/", _excluded(seen), notes), tuple(notes))


def _guess(folder: Folder, engine: bool) -> Guess | None:
    """What says most plainly how it is run comes first."""
    made = (other.image,) if engine else ()
    rest = (*made, other.pages, other.dockerfile, other.executable)
    ways = (other.procfile, other.worker, python.guess, node.guess, *rest)
    if isinstance(mapping(folder.json("package.json").get("scripts")).get("start"), str) and not folder.has(
        "manage.py"
    ):
        ways = (other.procfile, other.worker, node.guess, python.guess, *ways[4:])
    return next((found for way in ways if (found := way(folder))), None)


def _name(folder: Folder) -> str:
    project = mapping(folder.toml("pyproject.toml").get("project")).get("name")
    package = folder.json("package.json").get("name")
    named = next((name for name in (project, package) if isinstance(name, str) and name.strip()), None)
    return sanitised(re.sub(r"^@[^/]*/", "", named) if named else folder.root.resolve().name)


_SECRETS = re.compile(r"\.env(\..*)?|\.envrc|\.netrc|\.pgpass|\.htpasswd|\.git-credentials|id_(rsa|dsa|ecdsa|ed25519)")
_EXAMPLES = (".env.example", ".env.sample", ".env.template", ".env.dist", ".env.defaults")


def _excluded(folder: Folder) -> list[str]:
    """Secrets, which a bake refuses, and tests, which nobody serves."""
    secrets = [name for name in folder.names if _SECRETS.fullmatch(name) and name not in _EXAMPLES]
    keys = [
        name
        for name in folder.names
        if name.endswith((".pem", ".key")) and re.search("-----BEGIN [A-Z0-9 ]*PRIVATE KEY", folder.text(name))
    ]
    tests = [name for name in ("tests", "test") if (folder.root / name).is_dir()]
    return [*secrets, *keys, *tests]


def _more_notes(folder: Folder, health: str | None) -> list[str]:
    notes = []
    if health is None:
        notes.append("no health route was found in the sources, so / is asked: it must answer when the service is well")
    if any(_SECRETS.fullmatch(name) and name not in _EXAMPLES for name in folder.names):
        notes.append("files with secrets stay out of the release: name their values under env or secrets")
    if keeps_state(folder.sources):
        notes.append("a release is read-only: let the program keep its database in the folder that $REBAKE_DATA names")
    return notes


def render(service: str, guess: Guess, health: str, exclude: list[str], notes: list[str]) -> str:
    """The text of the file."""
    lines = [
        f"# How {service} is baked and deployed. Every key: docs/rebake-yaml.md, or `rebake schema`.",
        *(f"# Note: {_printable(note)}" for note in notes),
        f"service: {quoted(service)}",
        "",
        "bake:",
        f"  builder: {guess.builder:<25} # python | node | files | static | dockerfile",
        f"  source: {quoted(guess.source)}",
    ]
    if exclude:
        lines.append(f"  {f'exclude: {flow(exclude)}':<34} # does not go in, besides .dockerignore and .gitignore")
    if guess.build:
        lines.append(f"  {f'build: {quoted(guess.build)}':<34} # the script of package.json that is run before")
    lines += ["", "run:", f"  # Seen by: {_printable(guess.because)}.{_NO_SHELL if guess.command else ''}"]
    if guess.worker:
        lines += ["  kind: worker                       # nobody calls it: it has no route and fetches its work itself"]
    if guess.command:
        lines += [f"  command: {flow(guess.command)}"]
    lines += [_STAYS_UP if guess.worker else f"  health: {{path: {quoted(health)}}}"]
    if guess.env:
        lines.append("  env: {" + ", ".join(f"{k}: {_value(v)}" for k, v in guess.env.items()) + "}")
    return "\n".join([*lines, _REST_OF_A_WORKER if guess.worker else _REST.replace("local", guess.platform, 1)])


_NO_SHELL = " No shell; $PORT and $HOST are expanded."


def _printable(text: str) -> str:
    """For a comment: one line, and nothing that YAML does not allow."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _value(text: str) -> str:
    return quoted(text) if text else '""'


_STAYS_UP = """\
  # Its health is to stay up. Better, a program that ends with 0 when all is well:
  # health: {command: [python, check.py], interval: 5s}"""

_REST_OF_A_WORKER = """\
  drain: 10s                         # how long it may take, when told to finish (SIGTERM), for the work in hand

# Tests before any instance of the candidate works:
# checks:
#   - {name: tests, command: [python, -m, pytest, -q]}

environments:
  production:
    platform: local
    instances: 2
    # The candidate's share of the work, by instances beside a whole stable; the judge watches exits and health.
    strategy: {canary: {steps: [10%, 50%], hold: 30s}}
    soak: 10m                        # stable works on at full size this long after the last step
    keep: 3                          # previous revisions that can be undone to
"""

_REST = """\
  drain: 10s                         # how long an instance may finish its requests

# Tests of the candidate before any user reaches it:
# checks:
#   - {name: front-page, http: {path: /, expect_status: 200}}

environments:
  production:
    platform: local
    instances: 2
    listen: 127.0.0.1:8080           # what users call
    # The candidate's share of the users, step by step; the judge watches and takes a harmful one back.
    # With real traffic, let the judge choose the steps: strategy: {canary: {profile: default}}
    # With too few requests to judge by, a step waits up to 30m and then asks you; `undecided: promote` goes on instead.
    strategy: {canary: {steps: [5%, 25%, 50%], hold: 10s}}
    soak: 10m                        # stable stays whole and warm this long after the last step
    keep: 3                          # previous revisions that can be undone to
"""
