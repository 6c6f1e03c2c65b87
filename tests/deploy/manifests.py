"""The files of deploy/kubernetes, as `kubectl apply --kustomize` would send them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
NAMESPACE = "rebake"
IMAGE = "registry.example/rebake@sha256:" + "a" * 64
SECRETS = {
    "rebake-database": {"url": "postgresql://rebake:hunter2@db/rebake"},
    "rebake-key": {"key": "k" * 64},
    "rebake-tokens": {"tokens": "ada " + "a" * 64},
    "rebake-tls": {"tls.crt": "…", "tls.key": "…"},
}


def manifests(image: str = IMAGE) -> list[dict[str, Any]]:
    """Every object, with the image that a person sets."""
    listed = yaml.safe_load((FOLDER / "kustomization.yaml").read_text(encoding="utf-8"))
    assert listed["namespace"] == NAMESPACE
    found = [
        copy.deepcopy(one)  # YAML's anchors make one object of several
        for name in listed["resources"]
        for one in yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8"))
    ]
    for item in found:
        if item["kind"] == "Deployment":
            for each in item["spec"]["template"]["spec"]["containers"]:
                assert each["image"] == "rebake"
                each["image"] = image
    return found


def rights() -> list[dict[str, Any]]:
    """What a namespace grants rebake: its roles and their bindings."""
    return list(yaml.safe_load_all((FOLDER / "deploys-to.yaml").read_text(encoding="utf-8")))


def deployment() -> dict[str, Any]:
    return next(one for one in manifests() if one["kind"] == "Deployment")


def container() -> dict[str, Any]:
    """The one container of a replica."""
    (only,) = deployment()["spec"]["template"]["spec"]["containers"]
    found: dict[str, Any] = only
    return found
