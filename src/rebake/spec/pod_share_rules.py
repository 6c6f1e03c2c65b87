"""`canary_by: instances`: what would make a share of users something else than one of pods, and shares that so many
instances cannot have. Each is refused by name, with the nearest that can be had."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rebake.core.units import FULL, format_share
from rebake.spec.fields import share_of
from rebake.spec.report import Finding
from rebake.spec.tree import Path
from rebake.traffic.pods import deal, fits, neighbours

_WEIGHTED = ("canary", "linear")
_MOST_TRIED = 100


def _mapping(value: Any, key: str) -> dict[str, Any]:
    inner = value.get(key) if isinstance(value, dict) else None
    return inner if isinstance(inner, dict) else {}


def findings(environment: dict[str, Any], block: dict[str, Any], kind: str, path: Path) -> Iterator[Finding]:
    """Of one environment that has the key. Args: kind: of its strategy. path: the environment's."""
    where: Path = (*path, "kubernetes", "canary_by")
    if "gateway" in block:
        problem = "expected a gateway or canary_by, found both: a gateway deals single requests"
        yield Finding("key-does-nothing", where, problem, "remove the line", True)
        return
    if kind not in _WEIGHTED:
        problem = f"expected canary_by only with canary or linear, found it with {kind}"
        yield Finding("key-does-nothing", where, problem, "remove the line", True)
        return
    if "autoscale" in block:
        problem = "expected no autoscale with canary_by: instances (it changes the pods that shares are of), found it"
        yield Finding("not-by-instances", (*path, "kubernetes", "autoscale"), problem, "remove one of the two")
    if "traffic" in block and _mapping(block, "traffic").get("from") != "own":
        problem = "expected series of the pods' own, as one Service tells no fleets apart, found a gateway's"
        remedy = 'write from: own, with queries such as http_requests_total{pod=~"$names"}'
        yield Finding("not-by-instances", (*path, "kubernetes", "traffic"), problem, remedy)
    instances = environment.get("instances", 2)
    if isinstance(instances, int) and 0 < instances <= 1000:
        yield from _steps(environment, kind, instances, (*path, "strategy"))
        yield from _hold_back(environment, instances, (*path, "hold_back"))


def _hold_back(environment: dict[str, Any], instances: int, path: Path) -> Iterator[Finding]:
    back = share_of(environment.get("hold_back"))
    if back and back < FULL and not fits(FULL - back, instances, instances):
        left = [format_share(FULL - one) for one in neighbours(FULL - back, instances, instances)]
        yield _not_had(instances, "", reversed(left), FULL - back, path)


def _steps(environment: dict[str, Any], kind: str, instances: int, path: Path) -> Iterator[Finding]:
    """Each step must be one that so many instances have, and another one than the step before."""
    settings = _mapping(environment.get("strategy"), kind)
    if kind == "canary" and not isinstance(settings.get("steps"), list):
        least = " or ".join(format_share(one) for one in neighbours(1, instances, instances))
        problem = (
            "expected steps with canary_by: instances, as the judge's ramp begins with less than a pod, found none"
        )
        yield Finding("share-not-had", path, problem, f"write strategy: {{canary: {{steps: [{least}, …]}}}}")
        return
    last = 0
    for share, where in _asked(settings, kind, path):
        had = deal(share, instances, instances).share
        if not fits(share, instances, instances) or had <= last:
            known = [format_share(one) for one in neighbours(share, instances, instances) if one > last]
            yield _not_had(instances, f" after {format_share(last)}" if last else "", known, share, where)
            if kind == "linear":
                return
        last = max(last, had)


def _asked(settings: dict[str, Any], kind: str, path: Path) -> Iterator[tuple[int, Path]]:
    """Every step that says a share, and where it stands."""
    if kind == "linear":
        size = share_of(settings.get("step", "10%")) or FULL
        where = (*path, "linear", "step") if "step" in settings else path
        yield from ((step, where) for step in range(size, FULL, size))
        return
    for index, one in enumerate(settings["steps"]):
        share = share_of(one)
        if share is not None and 0 < share < FULL:
            yield share, (*path, "canary", "steps", index)


def _not_had(instances: int, after: str, near: Iterable[str], share: int, where: Path) -> Finding:
    """Args: after: which step came before. near: shares that can be had. share: the candidate's, basis points."""
    known = " or ".join(near)
    found = format_share(FULL - share if where[-1] == "hold_back" else share)
    problem = f"expected a share that {instances} instances can have{after} ({known or 'none'}), found {found}"
    enough = next((n for n in range(1, _MOST_TRIED) if n != instances and fits(share, n, n)), None)
    more = f", or instances: {enough}" if enough and not after else ""
    return Finding("share-not-had", where, problem, f"write {known or 'fewer steps'}{more}")
