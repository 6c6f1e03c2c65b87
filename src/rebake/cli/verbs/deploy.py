"""`rebake deploy ENV`: from the source here to users, or back with the reason."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rebake.cli import group as together
from rebake.cli import story, workshop
from rebake.cli.follow import follow, is_live
from rebake.cli.options import file_option, json_option, optional_environment_argument
from rebake.cli.output import emit_json, line, notice
from rebake.cli.session import Session, requested_by
from rebake.cli.words import View, seconds, short
from rebake.core.ids import timed_id
from rebake.errors import RebakeError, Refused

if TYPE_CHECKING:
    from rebake.app.registries import Registries


@click.command()
@optional_environment_argument
@file_option
@click.option(
    "--group",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Deploy the members of a release group together, instead of ENV.",
)
@click.option(
    "--release",
    "release",
    metavar="DIGEST",
    help="Deploy this release instead of baking the source; REGISTRY/NAME@DIGEST fetches it.",
)
@click.option("--detach", is_flag=True, help="Begin the rollout and return.")
@click.option("--again", is_flag=True, help="Roll out also when this revision serves already.")
@click.option(
    "--until",
    type=click.Choice(["promoted", "end"]),
    default="promoted",
    show_default=True,
    help="Wait for the outcome, or until the soak is over too.",
)
@json_option
def command(
    *,
    environment: str | None,
    file: Path,
    group: Path | None,
    release: str | None,
    detach: bool,
    again: bool,
    until: str,
    as_json: bool,
) -> int:
    """Bake if needed and take ENV to the release.

    Shows the way until it is promoted or taken back. Ctrl-C lets go of a rollout that goes on.

    Exit codes: 0 promoted, 2 a mistake in the file or the command, 3 rolled back, 4 refused, 5 the platform failed,
    6 stopped by a person.
    """
    together.one_of(environment, group, "deploy")
    session = Session()
    if environment is None:
        assert group is not None
        return together.deploy(session, group, detach=detach, again=again, as_json=as_json)
    described = workshop.read_file(session.home, file)
    request = workshop.rollout_request(described, environment, from_afar=session.remote is not None)
    with workshop.registries() as there:
        if session.remote is not None:
            workshop.prepare(session.home, described, there)
        digest = _release(session, described, release, there, as_json)
        if session.remote is not None:
            request |= workshop.handed_over(session.home, described, digest, there, lambda text: notice(f"  {text}"))
    document = {**request, "release": digest, "requested_by": requested_by(), "again": again}
    document["id"] = timed_id("r", time.time())
    try:
        view = session.post("/v1/rollouts", document)
    except Refused as error:
        return _refused(error, described.file.service, environment, digest, as_json)
    if not detach:
        try:
            view = follow(session.follow(view["rollout"], until), as_json) or view
        except KeyboardInterrupt:
            detach = True
    return _detached(view, as_json) if detach and not view["outcome"] else _ended(view, as_json)


def _release(
    session: Session, described: workshop.Described, release: str | None, there: Registries, as_json: bool
) -> str:
    say = notice if as_json else line
    if release is not None:
        return workshop.release_for(session.home, described, release, lambda text: say(f"  {text}"))
    if is_live(as_json):
        from rich.console import Console

        with Console().status("baking") as spinner:
            result = workshop.bake(session.home, described, there, spinner.update)
    else:
        result = workshop.bake(session.home, described, there, lambda text: say(f"  {text}"))
    reused = f", reused {' and '.join(result.reused)}" if result.reused else ""
    for text in result.notes:
        say(text)
    say(f"baked release {short(result.release.digest)} in {seconds(result.seconds)}{reused}")
    digest: str = result.release.digest
    return digest


def _refused(error: RebakeError, service: str, environment: str, digest: str, as_json: bool) -> int:
    """A gate said no before anything began: told like every error, and with `--json` also as an outcome."""
    if not as_json:
        raise error
    from rebake.cli.errors import show

    code = show(error, as_json=False)
    place = {"service": service, "environment": environment, "release": digest, "revision": None}
    outcome = {"outcome": "refused", "reason": error.problem, "verdict": None, "seconds": 0.0}
    none = {"total": 0, "errors": 0}
    requests = {"requests": {"stable": none, "candidate": none}}
    emit_json({"rollout": None, **place, **outcome, **requests, **error.to_json()})
    return code


def _detached(view: View, as_json: bool) -> int:
    for text in story.detached(view["environment"]):
        notice(text)
    if as_json:
        emit_json(story.result(view))
    else:
        line(
            f"rollout {view['rollout']}: {view['service']}/{view['environment']} to revision {short(view['revision'])}"
        )
    return 0


def _ended(view: View, as_json: bool) -> int:
    say: Any = notice if as_json else line
    for text in story.ending(view):
        say(text)
    if as_json:
        emit_json(story.result(view))
    return int(view["exit_code"] or 0)
