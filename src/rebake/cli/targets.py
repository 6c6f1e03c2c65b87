"""Which rollout a command means: by its id, as the last one of an environment, or as the last one there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from rebake.cli.session import Session, environment_path
from rebake.errors import UsageError

_ROLLOUT = re.compile(r"r-[0-9a-z]{4,}")
_LOOKED_AT = 20


def rollout_of(session: Session, target: str | None, service: str | None, file: Path) -> str:
    """The id of the rollout that is meant: of an environment the last one that was judged, else the last one.

    Raises: UsageError `no-rollout` where there is none yet.
    """
    if target is not None and _ROLLOUT.fullmatch(target):
        return target
    views = _of_environment(session, target, service, file) if target is not None else _everywhere(session, service)
    if not views:
        where = target or "any environment"
        raise UsageError("no-rollout", f"there was no rollout in {where} yet", remedy="rebake deploy ENV")
    judged = [view for view in views if view.get("verdict")]
    return str((judged or views)[0]["rollout"])


def _of_environment(session: Session, environment: str, service: str | None, file: Path) -> list[Any]:
    name = session.service_of(environment, service, file)
    doc = session.get(environment_path(name, environment, "history"), limit=_LOOKED_AT)
    return list(doc["history"])


def _everywhere(session: Session, service: str | None) -> list[Any]:
    environments = [e for e in session.get("/v1/status")["environments"] if service in (None, e["service"])]
    views = [view for e in environments for view in (e["rollout"], e["last"]) if view]
    return sorted(views, key=lambda view: str(view["rollout"]), reverse=True)
