"""Speaks to an emulated cluster over HTTP, in the namespace `default`."""

from __future__ import annotations

import json
import ssl
from pathlib import Path
from typing import Any

import httpx

from rebake.testing.kubernetes import ADMIN_TOKEN, Cluster

Json = dict[str, Any]
GOOD, BAD = "registry.example/web@sha256:" + "a" * 64, "registry.example/web@sha256:" + "b" * 64
APPS, GATEWAY = "/apis/apps/v1/namespaces/default", "/apis/gateway.networking.k8s.io/v1/namespaces/default"
CORE, POLICY = "/api/v1/namespaces/default", "/apis/policy/v1/namespaces/default"
RBAC = "/apis/rbac.authorization.k8s.io/v1/namespaces/default"
PROBE = {"httpGet": {"port": 8080, "path": "/healthz"}}


class Bench:
    def __init__(self, cluster: Cluster, token: str = ADMIN_TOKEN, *, authority: Path | None = None) -> None:
        """Args: authority: certificate of the authority of a cluster that speaks TLS."""
        self.cluster = cluster
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.http = httpx.Client(
            base_url=cluster.url,
            headers=headers,
            timeout=120,
            verify=True if authority is None else ssl.create_default_context(cafile=str(authority)),
        )

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def make(self, path: str, body: Json) -> Json:
        """Create, which must succeed."""
        answer = self.http.post(path, json=body)
        assert answer.status_code == 201, answer.text
        found: Json = answer.json()
        return found

    def get(self, path: str, **query: str) -> Json:
        answer = self.http.get(path, params=query)
        assert answer.status_code == 200, answer.text
        found: Json = answer.json()
        return found

    def items(self, path: str, **query: str) -> list[Json]:
        found: list[Json] = self.get(path, **query)["items"]
        return found

    def merge(self, path: str, body: Json) -> httpx.Response:
        headers = {"Content-Type": "application/merge-patch+json"}
        return self.http.patch(path, content=json.dumps(body), headers=headers)

    def apply(self, path: str, body: Json, manager: str = "rebake", **query: str) -> httpx.Response:
        headers = {"Content-Type": "application/apply-patch+yaml"}
        params = {"fieldManager": manager, **query}
        return self.http.patch(path, content=json.dumps(body), headers=headers, params=params)

    def pods(self, app: str = "web") -> list[Json]:
        return self.items(f"{CORE}/pods", labelSelector=f"app={app}")

    def events(self, reason: str) -> list[str]:
        return [one["message"] for one in self.items(f"{CORE}/events") if one["reason"] == reason]

    def conditions(self, path: str) -> dict[str, Json]:
        return {one["type"]: one for one in self.get(path)["status"].get("conditions", ())}


def deployment(name: str = "web", replicas: int = 3, image: str = GOOD, **spec: Any) -> Json:
    container = {"name": "web", "image": image, "ports": [{"name": "http", "containerPort": 8080}]}
    pod = {"containers": [{**container, "readinessProbe": PROBE}]}
    template = {"metadata": {"labels": {"app": name}}, "spec": pod}
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template, **spec}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}


def container_of(item: Json) -> Json:
    """The first container of a workload's template."""
    found: Json = item["spec"]["template"]["spec"]["containers"][0]
    return found


def service(name: str = "web", app: str = "web") -> Json:
    spec = {"selector": {"app": app}, "ports": [{"port": 80, "targetPort": "http"}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}
