"""Writes docs/cli.md from the commands' own help and sorts docs/errors.md: `python docs/make_reference.py`.

A test keeps cli.md and the commands the same. Entries of errors.md may be appended anywhere; this sorts them by code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click

from rebake.cli.root import VERBS, root
from rebake.rollout.states import EXIT_CODES, MEANING

PAGE = Path(__file__).with_name("cli.md")
ERRORS = Path(__file__).with_name("errors.md")
WIDTH = 100

_INTRODUCTION = """\
# The command line

Written from the commands' own help by `python docs/make_reference.py`; a test keeps both the same.

- Options stand after the verb: `rebake deploy production --json`.
- `ENV` is a name under `environments` in `rebake.yaml`.
- `DIGEST`, `REVISION` and the like may be shortened to any unique beginning of at least four digits.
- `--json` puts one document on standard output and nothing else; sentences for people go to standard error. An error
  is a document too: `{"error", "family", "problem", "where", "remedy", "evidence", "exit_code"}`
  (see [errors.md](errors.md)).
- `REBAKE_HOME` names the folder of all state (by default `$XDG_DATA_HOME/rebake`, else `~/.local/share/rebake`);
  `REBAKE_DATABASE` names another place for the ledger: a path, or a `postgresql://` URL. A home stays with its place.
"""

_CODES = (
    ("0", "done; for `deploy`: promoted"),
    ("1", "a defect of rebake: please report it. For `tour`: a claim was not true"),
    ("2", "a mistake in the command, in `rebake.yaml` or in the source"),
    ("3", "taken back by health, a check, the judge or an undo"),
    ("4", "refused by a gate or by quarantine"),
    (
        "5",
        "the platform, the edge or the state failed; for `doctor` and `ledger verify`: something is wrong",
    ),
    ("6", "stopped by a person, or superseded by a newer request"),
)


def commands() -> Iterator[tuple[str, click.Command, click.Context]]:
    """Every verb in the order of `rebake --help`, each followed by its own commands, with their full names."""
    top = click.Context(root, info_name="rebake", terminal_width=WIDTH, **root.context_settings)
    for verb in (verb for group in VERBS.values() for verb in group):
        command = root.get_command(top, verb)
        assert command is not None
        context = _context(command, verb, top)
        yield f"rebake {verb}", command, context
        if isinstance(command, click.Group):
            for name, below in command.commands.items():
                yield f"rebake {verb} {name}", below, _context(below, name, context)


def _context(command: click.Command, name: str, parent: click.Context) -> click.Context:
    return click.Context(command, info_name=name, parent=parent, terminal_width=WIDTH, max_content_width=WIDTH)


def _states(code: str) -> str:
    return ", ".join(f"`{state}` ({MEANING[state]})" for state, number in EXIT_CODES.items() if str(number) == code)


def page() -> str:
    """The whole page."""
    lines = [
        _INTRODUCTION,
        "## Exit codes",
        "",
        "| code | meaning | a rollout ends so when it is |",
        "| --- | --- | --- |",
    ]
    lines += [f"| {code} | {meaning} | {_states(code)} |" for code, meaning in _CODES]
    for title, verbs in VERBS.items():
        lines += ["", f"**{title}**", "", "| verb | does |", "| --- | --- |"]
        lines += [f"| [`{verb}`](#rebake-{verb}) | {sentence} |" for verb, sentence in verbs.items()]
    for name, command, context in commands():
        lines += ["", f"## {name}", "", "```text", command.get_help(context).rstrip(), "```"]
    return "\n".join(lines) + "\n"


def in_order(text: str) -> str:
    """The page of errors with its entries sorted by code."""
    head, *entries = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    return head.rstrip() + "\n\n" + "\n\n".join(sorted(entry.strip() for entry in entries)) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    ERRORS.write_text(in_order(ERRORS.read_text(encoding="utf-8")), encoding="utf-8")
