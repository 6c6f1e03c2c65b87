"""Whose an environment of a cluster is: of all installations of rebake that could act on it, one at most does.

An installation is a ledger, with all engines over it. Its name stands in the environment's record (the ConfigMap that
also holds the newest token) from its first effect on; another one finds it there, sees nothing of the environment and
changes nothing of it. Without that record an environment is nobody's, and is taken by who comes first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rebake.errors import Permanent
from rebake.kubernetes.names import lead_name
from rebake.kubernetes.resources import CONFIG_MAPS, Json

ID, HOME, TOKEN = "owner", "home", "token"
"""In the record."""


@dataclass(frozen=True, slots=True)
class Owner:
    """One installation. Attributes: id: of its ledger. home: where an engine of it is, for people."""

    id: str
    home: str = ""


Whose = Callable[[], Owner | None]
"""Who we are; None while nobody knows, as in tests: then nothing is refused."""


def nobody() -> None:
    """Nothing is refused."""


def other_owner(record: Json | None, ours: Owner | None) -> Owner | None:
    """The installation that has the environment, where it is not ours."""
    data = (record or {}).get("data") or {}
    if ours is None or not data.get(ID) or data[ID] == ours.id:
        return None
    return Owner(str(data[ID]), str(data.get(HOME) or "a place that it did not name"))


def refuse_other(service: str, environment: str, namespace: str, other: Owner) -> Permanent:
    """What the second one is told."""
    name = lead_name(service, environment)
    return Permanent(
        "environment-of-another-ledger",
        f"expected {service}/{environment} of namespace {namespace} to be this installation's, found that of ledger "
        f"{other.id}, led from {other.home}",
        where=f"{CONFIG_MAPS.resource} {namespace}/{name}",
        remedy="name another service, environment or namespace; or take it down there: "
        f"rebake down {environment}. If that ledger is lost for good: kubectl delete configmap {name} -n {namespace}, "
        "then deploy here, which ends what it left",
    )


def data_of(token: int, ours: Owner | None) -> dict[str, str]:
    """What the record holds."""
    return {TOKEN: str(token), **({} if ours is None else {ID: ours.id, HOME: ours.home})}
