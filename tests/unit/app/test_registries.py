"""A push that was got ready for while something else was done."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import httpx
import pytest

from rebake.app.registries import Registries
from rebake.errors import PlatformError
from rebake.registry.client import RegistryClient
from rebake.registry.requests import Ask
from rebake.release.manifest import Release, RunContract
from rebake.release.reference import parse_repository
from rebake.testing.images import ImageReleases
from rebake.testing.registry_server import RegistryServer

pytestmark = pytest.mark.real


@pytest.fixture
def releases(tmp_path: Path) -> ImageReleases:
    return ImageReleases(tmp_path / "store")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The method of every request."""
    found: list[str] = []
    once = RegistryClient._once

    def heard(client: RegistryClient, ask: Ask, scope: str) -> httpx.Response:
        found.append(ask.method)
        return once(client, ask, scope)

    monkeypatch.setattr(RegistryClient, "_once", heard)
    return found


def seal(releases: ImageReleases, text: str) -> Release:
    return releases.add(RunContract(("python", "main.py")), {"app/main.py": f"print({text!r})"})


def uploads(registry: RegistryServer, name: str) -> list[Path]:
    """What has arrived of the uploads that the registry waits for."""
    return [*registry.blobs.parent.glob(f"repositories/{name}/_uploads/*/data")]


def ready(registries: Registries, releases: ImageReleases, repository: str) -> None:
    place = parse_repository(repository)
    registries.prepare(releases.store, place)
    for thread in registries._preparing[place.name]:
        thread.join()


def push(registries: Registries, releases: ImageReleases, release: Release, repository: str) -> int:
    return registries.push(releases.store, release.digest, parse_repository(repository), lambda _: None).sent


def test_a_change_is_three_requests_when_all_is_ready(
    registry: RegistryServer, releases: ImageReleases, asked: list[str]
) -> None:
    place = f"{registry.host}/ready/shop"
    with Registries({}) as registries:
        assert push(registries, releases, seal(releases, "one"), place) == 3
        ready(registries, releases, place)
        asked.clear()
        second = seal(releases, "two")
        assert push(registries, releases, second, place) == 2
        assert asked == ["PUT", "PUT", "PUT"], "layer and configuration, then the manifest"
        assert registries.repository(parse_repository(place)).resolve(second.digest[7:19]) == second.digest


def test_what_was_begun_and_is_not_needed_is_taken_back(registry: RegistryServer, releases: ImageReleases) -> None:
    place, release = f"{registry.host}/same/shop", seal(releases, "one")
    with Registries({}) as registries:
        push(registries, releases, release, place)
        ready(registries, releases, place)
        assert len(uploads(registry, "same/shop")) == 2
        assert push(registries, releases, release, place) == 0
    assert uploads(registry, "same/shop") == []


def test_an_upload_that_the_registry_forgot_meanwhile_is_begun_anew(
    registry: RegistryServer, releases: ImageReleases, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    place, release = f"{registry.host}/forgotten/shop", seal(releases, "one")
    with Registries({}) as registries:
        monkeypatch.setattr(registries.client(registry.host), "pause", waited.append)
        ready(registries, releases, place)
        for upload in uploads(registry, "forgotten/shop"):
            shutil.rmtree(upload.parent)
        assert push(registries, releases, release, place) == 3
        assert registries.repository(parse_repository(place)).has_manifest(release.digest)
    assert waited, "it was refused first"


def test_a_registry_that_is_away_is_told_by_the_push(releases: ImageReleases, monkeypatch: pytest.MonkeyPatch) -> None:
    with Registries({}) as registries:
        monkeypatch.setattr(registries.client("127.0.0.1:1"), "pause", lambda _: None)
        ready(registries, releases, "127.0.0.1:1/shop")
        with pytest.raises(PlatformError) as away:
            push(registries, releases, seal(releases, "one"), "127.0.0.1:1/shop")
    assert away.value.code == "registry-unreachable"


def test_nobody_waits_for_a_registry_that_does_not_answer(releases: ImageReleases) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = parse_repository(f"127.0.0.1:{silent.getsockname()[1]}/shop")
        with Registries({}) as registries:
            registries.prepare(releases.store, place)
            threads = registries._preparing[place.name]
        assert any(thread.is_alive() for thread in threads), "it was left alone"
    for thread in threads:
        thread.join()  # the silent one has gone
