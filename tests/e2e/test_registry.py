"""A release baked on one machine and deployed on another, by way of a registry."""

from __future__ import annotations

from typing import Any

import pytest

from rebake.testing.registry_server import RegistryServer
from tests.e2e.site import BLUE_GREEN, Done, Site

pytestmark = pytest.mark.real


def on_another_machine(site: Site, *words: str) -> Done:
    """A command with a home of its own, and nothing else in common with the site's but the source."""
    mine = site.environ
    site.environ = {**mine, "REBAKE_HOME": str(site.root / "baker")}
    try:
        return site.rebake(*words)
    finally:
        site.environ = mine


def pushed(site: Site) -> dict[str, Any]:
    done = on_another_machine(site, "bake", "--push", "--json")
    assert done.code == 0, done.err
    return done.doc


def test_what_one_machine_baked_and_pushed_another_one_deploys_without_its_source(
    site: Site, registry: RegistryServer
) -> None:
    repository = f"{registry.host}/e2e/shop"
    site.describe(BLUE_GREEN, **{"{builder: files}": f"{{builder: files, repository: {repository}}}"})
    first = pushed(site)
    assert first["pushed"]["reference"] == f"{repository}@{first['release']}"
    site.edit('TEXT = "one"', 'TEXT = "two"')
    second = pushed(site)
    assert second["pushed"]["sent"] == 2, "layer and config"
    (site.folder / "server.py").unlink()
    unknown = site.deploy("--release", "sha256:" + "ab" * 32)
    assert (unknown.code, unknown.doc["error"]) == (5, "image-unknown"), unknown.err
    by_reference = site.deploy("--release", first["pushed"]["reference"])
    assert by_reference.doc["outcome"] == "promoted", by_reference.err
    assert site.get()[1].startswith("one")
    by_digest = site.deploy("--release", second["release"])
    assert by_digest.doc["outcome"] == "promoted", by_digest.err
    assert site.get()[1].startswith("two")
    beginning = site.deploy("--release", first["release"][:16], "--again")
    assert beginning.doc["outcome"] == "promoted", beginning.err


def test_pushing_nowhere_and_a_registry_that_is_away_say_what_to_do(site: Site) -> None:
    nowhere = on_another_machine(site, "bake", "--push")
    assert (nowhere.code, "no-repository" in nowhere.err) == (2, True), nowhere.err
    site.describe(BLUE_GREEN, **{"{builder: files}": "{builder: files, repository: '127.0.0.1:1/shop'}"})
    away = on_another_machine(site, "bake", "--push")
    assert (away.code, "registry-unreachable" in away.err) == (5, True), away.err
