"""Options that several verbs share, so that they mean the same everywhere. All stand after the verb."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
Decorator = Callable[[F], F]

DEFAULT_FILE = Path("rebake.yaml")


def json_option(function: F) -> F:
    text = "One JSON document on standard output, nothing else there."
    return click.option("--json", "as_json", is_flag=True, help=text)(function)


def file_option(function: F) -> F:
    kind = click.Path(path_type=Path, dir_okay=False)
    text = "The file that describes the service."
    return click.option("-f", "--file", type=kind, default=DEFAULT_FILE, show_default=True, help=text)(function)


def service_option(function: F) -> F:
    text = "The service; else the one of rebake.yaml here, else the only one there is."
    return click.option("-s", "--service", metavar="NAME", help=text)(function)


def environment_argument(function: F) -> F:
    return click.argument("environment", metavar="ENV", shell_complete=_complete_environment)(function)


def optional_environment_argument(function: F) -> F:
    return click.argument(
        "environment", metavar="[ENV]", required=False, default=None, shell_complete=_complete_environment
    )(function)


def of_environment(function: F) -> F:
    """ENV, --service, --file and --json: what every verb about one environment takes."""
    return environment_argument(service_option(file_option(json_option(function))))


def of_environment_or_group(function: F) -> F:
    """ENV or --group, and what `of_environment` takes."""
    text = "The release group of this name, instead of ENV."
    named = click.option("--group", metavar="NAME", help=text)
    return optional_environment_argument(service_option(file_option(json_option(named(function)))))


def _complete_environment(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    """Names for the Tab key: those that serve, and those in the file here. Never starts anything, never complains."""
    import contextlib

    names: set[str] = set()
    with contextlib.suppress(Exception):
        names |= _in_file(DEFAULT_FILE)
    with contextlib.suppress(Exception):
        names |= _in_agent()
    return sorted(name for name in names if name.startswith(incomplete))


def _in_agent() -> set[str]:
    import os

    from rebake.cli.client import Client
    from rebake.core.home import Home

    views = Client(Home.from_env(os.environ).agent_socket).call("GET", "/v1/status", timeout=0.5, any_version=True)
    return {view["environment"] for view in views["environments"]}


def _in_file(file: Path) -> set[str]:
    import yaml

    return set(yaml.safe_load(file.read_text())["environments"])
