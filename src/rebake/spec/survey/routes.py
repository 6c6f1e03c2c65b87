"""What the sources say about health routes, ports and state. Guesses from text; nothing is run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from rebake.spec.survey.folder import Folder, Source

_HEALTH = (
    "healthz",
    "_healthz",
    "health",
    "_health",
    "-/healthz",
    "-/health",
    "api/health",
    "livez",
    "readyz",
    "up",
    "ping",
)
_PORT_FLAGS = (("--port", "$PORT"), ("-p", "$PORT"))
_HOST_FLAGS = (("--host", "$HOST"), ("--bind", "$HOST"), ("--address", "$HOST"))
_STATE = re.compile(r"sqlite3\.connect\(|sqlite:///|\.sqlite3?[\"']|better-sqlite3|node:sqlite")


def health_path(folder: Folder) -> str | None:
    """The best known health route that the sources name, as they spell it; None when there is none."""
    text = "\n".join(source.text for source in folder.sources)
    for route in _HEALTH:
        if match := re.search(rf"""["'](/{route}/?)["']""", text):
            return match[1]
        # Django names its routes without the first slash: path("healthz/", …), re_path(r"^healthz$", …)
        if match := re.search(rf"""path\(\s*r?["']\^?({route}/?)\$?["']""", text):
            return "/" + match[1]
    return None


def reads_port(texts: Iterable[str]) -> bool:
    """The environment variable PORT is read somewhere."""
    pattern = re.compile(r"""environ[^\n]{0,40}["']PORT["']|getenv\(\s*["']PORT["']|env\.PORT\b|env\[["']PORT["']\]""")
    return any(pattern.search(text) for text in texts)


def port_arguments(texts: Sequence[str]) -> tuple[str, ...] | None:
    """What to add to a command so that the program listens where it is told; None when it does not seem to."""
    if reads_port(texts):
        return ()
    text = "\n".join(texts)
    for flag, value in _PORT_FLAGS:
        if re.search(rf"""["']{flag}["']""", text):
            host = next(((name, at) for name, at in _HOST_FLAGS if re.search(rf"""["']{name}["']""", text)), ())
            return (*host, flag, value)
    if re.search(r"(sys|process)\.argv\[[12]\]", text):
        return ("$PORT",)
    return None


def keeps_state(sources: Iterable[Source]) -> bool:
    """A database file is probably kept beside the sources, where a release is read-only."""
    texts = [source.text for source in sources]
    return any(_STATE.search(text) for text in texts) and not any("REBAKE_DATA" in text for text in texts)
