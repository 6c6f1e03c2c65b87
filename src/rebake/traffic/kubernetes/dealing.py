"""Shares of users that are shares of pods behind one Service: which pods share, and what that comes to. Pure.

A Service selects pods by labels alone, and a Deployment's template must not change. So each pod has `names.USERS` from
its begin, with its own fleet as the value, and while two fleets share, the users' Service selects by stable's. The
rules:
- stable's pods are behind it from their begin, also those that come while no engine lives;
- the candidate's are not, until one is labelled with stable's name;
- one of stable that is to leave it, for a share above half, is labelled with nobody's;
- who comes in is labelled before who goes out; and where the selector is about to move to these labels, all are right
  before it does;
- going back is the selector alone: by fleet (`names.FLEET`) it selects all of stable's pods, whatever this label says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rebake.core.units import FULL
from rebake.kubernetes import names
from rebake.kubernetes.resources import Json, is_true
from rebake.traffic.kubernetes.documents import NOBODY, Wish


def labels_of(pod: Json) -> Mapping[str, str]:
    found: Mapping[str, str] = pod["metadata"].get("labels") or {}
    return found


def wanted_users(wish: Wish, pods: Sequence[Json]) -> list[tuple[Json, str]]:
    """Pods that do not say whose users they share, each with what it should say; those that come in are first."""
    own = {names.label_value(one.fleet): one for one in wish.fleets}
    host = None if wish.host is None else names.label_value(wish.host)
    found = []
    for pod in pods:
        labels = labels_of(pod)
        fleet = own.get(labels.get(names.FLEET, ""))
        if fleet is None:
            continue
        mine, says = names.label_value(fleet.fleet), labels.get(names.USERS)
        wanted = mine
        if host is not None and (instance := labels.get(names.INSTANCE)) in fleet.instances:
            shares = fleet.instances.index(instance) < (fleet.called or 0)
            wanted = host if shares else (NOBODY if mine == host else mine)
        if says != wanted and not (host is None and says is None):
            found.append((pod, wanted))
    return sorted(found, key=lambda one: one[1] != host)


def selected(selector: Mapping[str, str], pods: Sequence[Json]) -> list[Json]:
    """The pods that a selector asks for."""
    return [pod for pod in pods if selector and selector.items() <= labels_of(pod).items()]


def shares_in(selector: Mapping[str, str], pods: Sequence[Json], fleets: Mapping[str, str]) -> dict[str, int]:
    """By fleet, basis points that the pods come to which a selector asks for.

    Args:
        fleets: by the value of its label.
    """
    found = dict.fromkeys(fleets.values(), 0)
    chosen = [labels_of(pod).get(names.FLEET, "") for pod in selected(selector, pods) if not ends(pod)]
    for label in chosen:
        fleet = fleets.get(label, label)
        found[fleet] = found.get(fleet, 0) + 1
    return {fleet: round(FULL * count / max(1, len(chosen))) for fleet, count in found.items()}


def ends(pod: Json) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def expected(selector: Mapping[str, str], pods: Sequence[Json]) -> set[str]:
    """Names of pods that must be behind a Service with this selector: those that would answer."""
    return {str(pod["metadata"]["name"]) for pod in selected(selector, pods) if is_true(pod, "Ready") and not ends(pod)}
