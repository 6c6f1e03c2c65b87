"""The Role of docs/kubernetes.md is enough, and nothing in it is too much."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml

from rebake.errors import RebakeError
from rebake.kubernetes.resources import DEPLOYMENTS, Json, Kind
from rebake.ledger.ports import Fence
from rebake.platforms.kubernetes.doctor import ALWAYS, AUTOSCALED, STATEFUL
from rebake.release.manifest import Resources
from rebake.testing.kubernetes import Behaviour, Cluster, Fault
from rebake.testing.kubernetes.resources import DEPLOYMENTS as EMULATED_DEPLOYMENTS
from rebake.testing.kubernetes.resources import STATEFULSETS
from rebake.testing.kubernetes.status import conflict
from tests.unit.platforms.kubernetes.world import CORE, World, world_of

RBAC = "/apis/rbac.authorization.k8s.io/v1/namespaces/default"
MANUAL = Path(__file__).parents[4] / "docs" / "kubernetes.md"
Rules = Mapping[tuple[Kind, str], tuple[str, ...]]
DEPLOYED: Rules = {**ALWAYS, **AUTOSCALED}
STATED: Rules = {**{one: verbs for one, verbs in ALWAYS.items() if one[0] != DEPLOYMENTS}, **STATEFUL}


def _rows(rules: Rules) -> Iterator[tuple[str, str, str]]:
    for (kind, below), verbs in rules.items():
        for verb in verbs:
            yield kind.group, f"{kind.plural}/{below}" if below else kind.plural, verb


def _role(world: World, rows: list[tuple[str, str, str]]) -> str:
    """A kubeconfig of an account that may do this. Returns: its path."""
    rules = [{"apiGroups": [group], "resources": [what], "verbs": [verb]} for group, what, verb in rows]
    world.make(f"{RBAC}/roles", {"metadata": {"name": "rebake"}, "rules": rules})
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "rebake"}
    subject = {"kind": "ServiceAccount", "name": "rebake", "namespace": "default"}
    world.make(f"{RBAC}/rolebindings", {"metadata": {"name": "rebake"}, "roleRef": reference, "subjects": [subject]})
    token = world.cluster.token_of("default", "rebake")
    return str(world.cluster.write_kubeconfig(world.home.root.parent / "role", token=token))


def _everything(world: World, kubeconfig: str, *, stateful: bool) -> None:
    """All that the platform ever asks of an API server."""
    plain = world.with_secret(1)
    if stateful:
        world.wished["kind"] = "statefulset"
    else:
        world.wished["autoscale"] = {"max": 4}
    world.wished["kubeconfig"] = kubeconfig
    from dataclasses import replace

    spec = replace(plain, run=replace(plain.run, resources=Resources(cpu_millis=100)))
    world.behave("sick", Behaviour(answers={"/healthz": (500, "")}))
    world.raised(spec, fence=Fence("shop/production", 1))
    world.platform.inspect("shop", "production")
    held = STATEFULSETS if stateful else EMULATED_DEPLOYMENTS
    world.cluster.faults.add(Fault(verb="patch", resource=held.plural, answer=conflict(held, "x")))
    world.raised(replace(spec, id="f1-2"), fence=Fence("shop/production", 2))
    world.platform.logs("f1-1", 5)
    first = world.one("f1-1")
    assert first is not None
    with world.platform.reach([first.address or ""]):
        pass
    name = world.pod_of("f1-2")["metadata"]["name"]
    world.http.delete(f"{CORE}/pods/{name}", params={"gracePeriodSeconds": "0"})
    world.until_instance("f1-2", lambda i: i.state == "exited")
    sick = replace(spec, id="f2-1", fleet="f2", release=world.spec(1, "sick").release, revision="sha256:" + "9" * 64)
    world.platform.launch(sick)
    world.until_instance("f2-1", lambda i: "answered 500" in (i.detail or ""))
    for instance in ("f2-1", "f1-2", "f1-1"):
        world.gone(instance)


@pytest.mark.parametrize("stateful", [False, True], ids=["deployment", "statefulset"])
def test_the_role_is_enough(tmp_path: Path, stateful: bool) -> None:
    with Cluster() as cluster, world_of(tmp_path, cluster) as world:
        rows = list(_rows(STATED if stateful else DEPLOYED))
        _everything(world, _role(world, rows), stateful=stateful)
        account = "system:serviceaccount:default:rebake"
        assert [one.attempt for one in cluster.asked if one.user == account and one.code == 403] == []
        used = {
            (one.attempt.resource.group, one.attempt.what, one.attempt.verb)
            for one in cluster.asked
            if one.user == account and one.attempt.resource is not None and one.code != 403
        }
        created = {(group, what, "create") for group, what, verb in used if verb == "patch"}  # an apply that creates
        created |= {(group, what, "create") for group, what, _ in used if what == "pods/portforward"}  # asked with get
        assert set(rows) - used - created == set(), "these are too much"


@pytest.mark.parametrize("row", list(_rows(DEPLOYED)), ids=" ".join)
def test_without_any_one_of_its_rules_something_is_refused(
    tmp_path: Path, row: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.unit.platforms.kubernetes import world as room

    monkeypatch.setattr(room, "DEADLINE_SECONDS", 8.0)
    group, what, verb = row
    with Cluster() as cluster, world_of(tmp_path, cluster) as world:
        rows = [one for one in _rows(DEPLOYED) if one != row]

        def refused() -> bool:
            return any(
                one.code == 403
                and one.attempt.resource is not None
                and (one.attempt.resource.group, one.attempt.what) == (group, what)
                for one in cluster.asked
            )

        with contextlib.suppress(RebakeError, AssertionError):  # it is told, or something never comes about
            _everything(world, _role(world, rows), stateful=False)
        assert refused(), f"nobody missed the permission to {verb} {what}"


def test_the_manual_shows_this_role() -> None:
    text = MANUAL.read_text(encoding="utf-8")
    shown: set[tuple[str, str, str]] = set()
    for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
        for doc in yaml.safe_load_all(block):
            if isinstance(doc, dict) and doc.get("kind") == "Role" and doc["metadata"]["name"] == "rebake":
                shown |= _granted(doc)
    assert set(_rows(DEPLOYED)) <= shown


def _granted(role: Json) -> set[tuple[str, str, str]]:
    return {
        (group, what, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for what in rule["resources"]
        for verb in rule["verbs"]
    }
