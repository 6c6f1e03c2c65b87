"""The verbs by name, loaded when they are typed, and the one place where a command ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from rebake import __version__
from rebake.cli import errors
from rebake.errors import RebakeError, UsageError

VERBS: dict[str, dict[str, str]] = {
    "Ship": {
        "init": "Look at this folder and write a rebake.yaml that deploys it.",
        "bake": "Turn the source into a sealed release.",
        "deploy": "Bake if needed and take an environment to the release.",
        "approve": "Let a rollout that waits for a person go on.",
        "stop": "Stop what is under way in an environment.",
        "freeze": "Hold every rollout where it is, until a time or until it is lifted.",
        "undo": "Put the previous revision back, at once.",
    },
    "See": {
        "status": "What serves, what wants to, and how it goes.",
        "history": "Past rollouts of an environment, newest first.",
        "logs": "What the instances wrote.",
        "diff": "What changed between two releases or revisions.",
        "judge": "What the judge reads, and how it saw a rollout: metrics, explain.",
        "drift": "Look for what differs from what was released.",
        "replay": "Judge a past rollout again, with other settings.",
        "ledger": "The record of everything: show, verify, export.",
        "dashboard": "Open the page that shows it all, and print its address.",
    },
    "Keep house": {
        "quarantine": "Revisions that were taken back; let one go.",
        "gc": "Remove what no kept revision needs.",
        "down": "Retire every fleet of an environment and close its address.",
        "agent": "The process that does the work: start, stop, status.",
        "doctor": "Look for what would get in the way on this machine.",
        "schema": "Print the JSON Schema of rebake.yaml.",
        "completion": "Print the completion script for bash, zsh or fish.",
        "tour": "See it all on one machine, within two minutes.",
    },
}
_ALL = {verb for group in VERBS.values() for verb in group}

_EPILOG = "\b\nStart here:  rebake tour      in your own folder:  rebake init && rebake deploy production"


class Root(click.Group):
    """A group that knows its verbs' names and sentences without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return [verb for group in VERBS.values() for verb in group]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _ALL:
            return None
        command: click.Command = import_module(f"rebake.cli.verbs.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in _ALL and not args[0].startswith("-") and not ctx.resilient_parsing:
            raise unknown_verb(args[0])
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        for title, verbs in VERBS.items():
            with formatter.section(title):
                formatter.write_dl(list(verbs.items()))


class Interrupted(UsageError):
    """A person pressed Ctrl-C where that means to stop."""

    exit_code = 6


def unknown_verb(word: str) -> UsageError:
    """Source: DESIGN, every mistake names the nearest valid spelling."""
    from difflib import get_close_matches

    near = get_close_matches(word, sorted(_ALL), n=1)
    remedy = f"did you mean `rebake {near[0]}`?" if near else "rebake --help lists every verb"
    return UsageError("unknown-verb", f"rebake has no verb {word!r}", remedy=remedy)


@click.group(
    cls=Root,
    invoke_without_command=True,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, "-V", "--version", message="rebake %(version)s")
@click.pass_context
def root(ctx: click.Context) -> None:
    """Never patch. Rebake.

    Every change becomes a sealed release, raised beside what runs, tested there, moved to while a judge watches, and
    kept or taken back.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def _usage(error: click.ClickException) -> UsageError:
    """A mistake in what was typed, in our words."""
    ctx = getattr(error, "ctx", None)
    path = ctx.command_path if ctx is not None else "rebake"
    return UsageError("wrong-usage", error.format_message(), where=path, remedy=f"{path} --help")


def run(args: Sequence[str]) -> int:
    """Run one command line. Returns its exit code; every way to end passes here."""
    as_json = "--json" in args
    try:
        code = root.main(list(args), prog_name="rebake", standalone_mode=False)
        sys.stdout.flush()
    except RebakeError as error:
        return errors.show(error, as_json=as_json)
    except click.ClickException as error:
        return errors.show(_usage(error), as_json=as_json)
    except (KeyboardInterrupt, click.Abort):
        return errors.show(Interrupted("interrupted", "stopped by you"), as_json=as_json)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except Exception as error:
        return errors.show(errors.defect(error), as_json=as_json)
    return code if isinstance(code, int) else 0
