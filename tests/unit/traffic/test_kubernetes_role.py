"""The Role that the manual shows for a route is enough for all that a route asks, and nothing in it is too much."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.unit.traffic.kubernetes_world import ENVIRONMENT, GATEWAY, NAME, NAMESPACE, SERVICE, RouteWorld, world

from rebake.kubernetes.resources import HTTP_ROUTES
from rebake.ledger.ports import Fence

RBAC = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}"
MANUAL = Path(__file__).parents[3] / "docs" / "kubernetes.md"
OF_THE_PLATFORM = [("", "pods", verb) for verb in ("list", "watch", "patch")] + [("", "configmaps", "get")]
"""What the route uses of the rules that the platform needs anyway."""
ONLY_WITH_A_GATEWAY = {
    (HTTP_ROUTES.group, HTTP_ROUTES.plural, verb) for verb in ("list", "watch", "create", "patch", "delete")
}


def _shown() -> set[tuple[str, str, str]]:
    blocks = re.findall(r"```yaml\n(.*?)```", MANUAL.read_text(encoding="utf-8"), re.DOTALL)
    docs = [doc for block in blocks for doc in yaml.safe_load_all(block) if isinstance(doc, dict)]
    role = next(d for d in docs if d.get("kind") == "Role" and d["metadata"]["name"] == "rebake-route")
    return {
        (g, r, v) for rule in role["rules"] for g in rule["apiGroups"] for r in rule["resources"] for v in rule["verbs"]
    }


def _grant(shop: RouteWorld, rows: set[tuple[str, str, str]]) -> None:
    """From now on our router is an account that may do this."""
    rules = [{"apiGroups": [group], "resources": [what], "verbs": [verb]} for group, what, verb in sorted(rows)]
    shop.admin.post(f"{RBAC}/roles", json={"metadata": {"name": "r"}, "rules": rules}).raise_for_status()
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}
    subject = {"kind": "ServiceAccount", "name": "rebake", "namespace": NAMESPACE}
    body = {"metadata": {"name": "r"}, "roleRef": reference, "subjects": [subject]}
    shop.admin.post(f"{RBAC}/rolebindings", json=body).raise_for_status()
    token = shop.cluster.token_of(NAMESPACE, "rebake")
    shop.kubeconfig = shop.cluster.write_kubeconfig(shop.kubeconfig.with_name("account"), token=token)
    shop.restart()


def _everything(shop: RouteWorld, fences: Mapping[str, Any]) -> None:
    """All that a route ever asks of an API server."""
    shop.raise_fleet("s1")
    shop.raise_fleet("c1")
    last = 10_000 if "gateway" not in shop.wished.doc else 5_000
    shop.router.apply(shop.route(shop.fleet("s1", 0), shop.fleet("c1", 0)), **fences)
    shop.shifted(shop.route(shop.fleet("s1", 10_000), shop.fleet("c1", 0)))
    route = shop.route(shop.fleet("s1", 10_000 - last), shop.fleet("c1", last))
    shop.admin.patch(
        (
            HTTP_ROUTES.path(NAMESPACE, NAME)
            if "gateway" in shop.wished.doc
            else f"/api/v1/namespaces/{NAMESPACE}/services/{NAME}"
        ),
        json={"metadata": {"annotations": {"theirs": "1"}}},
        headers={"Content-Type": "application/merge-patch+json"},
    ).raise_for_status()
    shop.served(route)
    shop.served(shop.route(shop.fleet("s1", 10_000, ["s1-1"]), shop.fleet("c1", 0)))
    shop.served(shop.route(shop.fleet("s1", 10_000)))
    shop.router.remove(SERVICE, ENVIRONMENT)


@pytest.mark.parametrize("doc", [GATEWAY, {}], ids=["gateway", "service"])
def test_the_role_is_enough_and_nothing_is_too_much(tmp_path: Path, doc: Mapping[str, Any]) -> None:
    with world(tmp_path, doc) as shop:
        rows = _shown() | set(OF_THE_PLATFORM)
        _grant(shop, rows)
        _everything(shop, {"fence": Fence("shop/production", 3)})
        account = f"system:serviceaccount:{NAMESPACE}:rebake"
        asked = [one for one in shop.cluster.asked if one.user == account]
        assert [one.attempt for one in asked if one.code == 403] == []
        used = {(a.resource.group, a.what, a.verb) for a in (one.attempt for one in asked) if a.resource is not None}
        unused = rows - used - (set() if doc else ONLY_WITH_A_GATEWAY)
        # a stale cache and a Service of other words are rare: they are asked for by name, and corrected
        rare = {("", "services", "get"), ("", "services", "patch"), (HTTP_ROUTES.group, HTTP_ROUTES.plural, "get")}
        assert unused <= rare, "these are too much"
