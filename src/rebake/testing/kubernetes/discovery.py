"""Which groups, versions and resources there are, as clients ask before anything else.

Source: Kubernetes, "API Discovery" (unaggregated documents); `GET /version`.
"""

from __future__ import annotations

from collections.abc import Sequence

from rebake.testing.kubernetes.resources import SELF_REVIEWS, Resource
from rebake.testing.kubernetes.schema import SERVED_VERSION
from rebake.testing.kubernetes.status import Json

_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
_SCALE = {"kind": "Scale", "group": "autoscaling", "version": "v1", "verbs": ["get", "patch", "update"]}
_EVICTION = {"kind": "Eviction", "group": "policy", "version": "v1", "verbs": ["create"]}


def document(path: str, served: Sequence[Resource]) -> Json | None:
    """The document at a path; None where there is none."""
    if path == "/version":
        return _version()
    if path == "/api":
        address = [{"clientCIDR": "0.0.0.0/0", "serverAddress": "127.0.0.1"}]
        return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": address}
    groups = {one.group: one.version for one in served if one.group}
    if path == "/apis":
        rows = [_group(name, version) for name, version in sorted(groups.items())]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": rows}
    parts = path.strip("/").split("/")
    if parts[0] == "apis" and len(parts) == 2 and parts[1] in groups:
        return {"kind": "APIGroup", "apiVersion": "v1", **_group(parts[1], groups[parts[1]])}
    here = [one for one in served if one.root == path.rstrip("/")]
    return _resources(here) if here else None


def _version() -> Json:
    major, minor = SERVED_VERSION.split(".")
    words = {"gitCommit": "", "gitTreeState": "clean", "buildDate": "", "goVersion": "", "compiler": "gc"}
    version = f"v{SERVED_VERSION}.0+rebake.testing"
    return {"major": major, "minor": minor, "gitVersion": version, **words, "platform": "linux/amd64"}


def _group(name: str, version: str) -> Json:
    row = {"groupVersion": f"{name}/{version}", "version": version}
    return {"name": name, "versions": [row], "preferredVersion": row}


def _resources(here: Sequence[Resource]) -> Json:
    rows: list[Json] = []
    for one in here:
        row: Json = {"name": one.plural, "singularName": one.kind.lower(), "namespaced": one.namespaced}
        row |= {"kind": one.kind, "verbs": ["create"] if one == SELF_REVIEWS else list(_VERBS)}
        if one.short_names:
            row["shortNames"] = list(one.short_names)
        if one.categories:
            row["categories"] = list(one.categories)
        rows.append(row)
        rows += [_subresource(one, name) for name in one.subresources]
    group_version = here[0].api_version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": rows}


def _subresource(resource: Resource, name: str) -> Json:
    row: Json = {"name": f"{resource.plural}/{name}", "singularName": "", "namespaced": resource.namespaced}
    if name == "scale":
        return row | _SCALE
    if name == "eviction":
        return row | _EVICTION
    return row | {"kind": resource.kind, "verbs": ["get"] if name == "log" else ["get", "patch", "update"]}
