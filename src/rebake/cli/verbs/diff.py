"""`rebake diff A B`: what changed, before one finds out in another way."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rebake.cli.options import file_option, json_option, service_option
from rebake.cli.output import emit_json, line
from rebake.cli.session import Session, with_params
from rebake.errors import RebakeError, UsageError

if TYPE_CHECKING:
    from rebake.release.diff import ReleaseView

_DIGITS = re.compile(r"(sha256:)?[0-9a-f]{4,64}")
_COHORTS = ("stable", "candidate")


@click.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@service_option
@file_option
@click.option("-e", "--environment", metavar="ENV", help="Whose stable and candidate are meant.")
@json_option
def command(*, a: str, b: str, service: str | None, file: Path, environment: str | None, as_json: bool) -> int:
    """Compare two releases or revisions.

    A and B are the beginning of a digest (of a release or a revision), the name of an environment (what is stable
    there), or `stable` and `candidate`.
    """
    from rebake.release.diff import diff

    finder = _Finder(Session(), service, file, environment)
    found = diff(finder.side(a), finder.side(b))
    if as_json:
        emit_json(found.to_json())
    else:
        for text in found.sentences():
            line(text)
    return 0


class _Finder:
    """Finds what a word on the command line means."""

    def __init__(self, session: Session, service: str | None, file: Path, environment: str | None) -> None:
        self._session = session
        self._service = service
        self._file = file
        self._environment = environment
        self._views: list[Any] | None = None

    def side(self, word: str) -> ReleaseView:
        """Raises: UsageError `unknown-word`, `which-environment`, `no-such-cohort`; what store and agent say."""
        if word in _COHORTS:
            return self._cohort(self._chosen(), word, word)
        view = next((view for view in self._known() if view["environment"] == word), None)
        if view is not None:
            return self._cohort(view, "stable", word)
        if not _DIGITS.fullmatch(word):
            raise self._unknown(word)
        return self._digest(word)

    def _known(self) -> list[Any]:
        """Environments of the service that is meant; none where nothing was ever deployed."""
        if self._views is None:
            from rebake.spec.peek import peek_service

            name = self._service or peek_service(self._file)
            views = [] if self._session.is_fresh() else self._session.get("/v1/status")["environments"]
            self._views = [view for view in views if name in (None, view["service"])]
        return self._views

    def _chosen(self) -> Any:
        views = [view for view in self._known() if self._environment in (None, view["environment"])]
        if len(views) != 1:
            names = ", ".join(f"{view['service']}/{view['environment']}" for view in self._known()) or "none"
            raise UsageError(
                "which-environment",
                f"expected one environment, found {len(views)}",
                remedy="name it with --environment ENV (and --service NAME)",
                evidence=[f"known: {names}"],
            )
        return views[0]

    def _cohort(self, view: Any, cohort: str, word: str) -> ReleaseView:
        fleet = view[cohort]
        if fleet is None:
            raise UsageError(
                "no-such-cohort",
                f"{view['service']}/{view['environment']} has no {cohort}",
                remedy=f"rebake status {view['environment']}",
            )
        return self._revision(fleet["revision"], view["service"], word)

    def _digest(self, word: str) -> ReleaseView:
        """A release first, because it needs no agent; else a revision."""
        try:
            return self._side(word, word, None)
        except RebakeError as error:
            if error.code != "release-unknown" or self._session.is_fresh():
                raise
        return self._revision(word, self._service, word)

    def _revision(self, prefix: str, service: str | None, word: str) -> ReleaseView:
        target = with_params(f"/v1/revisions/{prefix}", {"service": service})
        doc = self._session.get(target)
        return self._side(doc["release"], word, doc)

    def _side(self, release: str, word: str, revision: Any) -> ReleaseView:
        from rebake import app
        from rebake.core.codec import load
        from rebake.release.diff import ReleaseView
        from rebake.release.manifest import Settings

        store = app.store(self._session.home)
        found = store.release(release)
        settings = load(Settings, revision["settings"]) if revision else None
        return ReleaseView(word, found, tuple(store.files(found)), settings)

    def _unknown(self, word: str) -> UsageError:
        names = ", ".join(view["environment"] for view in self._known()) or "none"
        return UsageError(
            "unknown-word",
            f"expected a digest, an environment, stable or candidate, found {word!r}",
            remedy="rebake history ENV shows digests",
            evidence=[f"environments: {names}"],
        )
