"""What must not be removed, from all that is remembered. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rebake.release.manifest import Revision
from rebake.rollout.view import Doc
from rebake.rollout.world import Environment


def _revisions(environment: Environment) -> Iterable[Revision]:
    fleets = (environment.stable, environment.candidate, *environment.previous)
    yield from (fleet.revision for fleet in fleets if fleet is not None)
    yield from (gone.fleet.revision for gone in environment.leaving)
    yield from (r.revision for r in (environment.rollout, *environment.queue) if r is not None)


def kept_things(environments: Sequence[Environment]) -> Doc:
    """Releases and secret versions that a fleet, a rollout or an undo may still need."""
    revisions = [r for environment in environments for r in _revisions(environment)]
    secrets = {s.version for r in revisions for s in r.settings.secrets.values()}
    return {"releases": sorted({r.release for r in revisions}), "secrets": sorted(secrets)}
