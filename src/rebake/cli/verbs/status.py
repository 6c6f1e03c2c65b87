"""`rebake status [ENV]`: what serves, what wants to, and how it goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rebake.cli import group as together
from rebake.cli.options import file_option, json_option, optional_environment_argument, service_option
from rebake.cli.output import emit_json, line
from rebake.cli.session import NOTHING_DEPLOYED, Session, environment_path
from rebake.cli.words import environment_details, environment_lines


@click.command()
@optional_environment_argument
@service_option
@file_option
@json_option
@together.group_option
@click.option("--watch", is_flag=True, help="Follow it; with ENV, the rollout under way there.")
def command(
    *, environment: str | None, service: str | None, file: Path, as_json: bool, group: str | None, watch: bool
) -> int:
    """Say what serves in ENV, or in every environment."""
    session = Session()
    if group is not None:
        together.one_of(environment, group, "status")
        return together.status(session, group, as_json=as_json)
    if session.is_fresh() and environment is None:
        return _nothing(as_json)
    session.require_state()
    if environment is None:
        return _watch_all(session, service) if watch else _all(session, service, as_json)
    name = session.service_of(environment, service, file)
    if watch:
        return _watch_one(session, name, environment, as_json)
    view = session.get(environment_path(name, environment))
    if as_json:
        emit_json(document(view))
    else:
        _print(environment_details(view))
    return 0


def _nothing(as_json: bool) -> int:
    if as_json:
        emit_json({"environments": []})
    else:
        line(f"{NOTHING_DEPLOYED}; in a folder with a rebake.yaml: rebake deploy ENV")
    return 0


def document(view: Any) -> Any:
    """An environment view as `--json` shows it: its rollout also by the name `id`. Source: DESIGN section 5."""
    rollout = view["rollout"]
    return {**view, "rollout": {"id": rollout["rollout"], **rollout} if rollout else None}


def _print(lines: list[str]) -> None:
    for text in lines:
        line(text)


def _views(session: Session, service: str | None) -> list[Any]:
    views = session.get("/v1/status")["environments"]
    return [view for view in views if service in (None, view["service"])]


def _all(session: Session, service: str | None, as_json: bool) -> int:
    views = _views(session, service)
    if as_json:
        emit_json({"environments": [document(view) for view in views]})
    elif not views:
        return _nothing(as_json)
    for index, view in enumerate([] if as_json else views):
        _print(([""] if index else []) + environment_lines(view))
    return 0


def _watch_one(session: Session, service: str, environment: str, as_json: bool) -> int:
    """Follow the rollout under way to its end; without one, say how it stands and be done."""
    from rebake.cli import story
    from rebake.cli.follow import follow

    view = session.get(environment_path(service, environment))
    if view["rollout"]:
        try:
            last = follow(session.follow(view["rollout"]["rollout"], "promoted"), as_json)
        except KeyboardInterrupt:
            _print(story.detached(environment))
            return 0
        _print([] if as_json else story.ending(last))
    elif not as_json:
        _print(environment_details(view))
    if as_json:
        emit_json(document(session.get(environment_path(service, environment))))
    return 0


def _watch_all(session: Session, service: str | None) -> int:
    from rebake.cli.overview import watch

    watch(lambda: _views(session, service))
    return 0
