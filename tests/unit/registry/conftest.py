from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from rebake.registry.client import RegistryClient
from rebake.registry.repository import Repository
from rebake.release.manifest import Release, RunContract
from rebake.release.store import Store
from rebake.testing.images import ImageReleases

Open = Callable[..., Repository]


def quiet(_line: str) -> None:
    pass


def no_pause(_seconds: float) -> None:
    pass


@pytest.fixture
def releases(tmp_path: Path) -> ImageReleases:
    return ImageReleases(tmp_path / "store")


@pytest.fixture
def release(releases: ImageReleases) -> Release:
    return seal(releases, "one")


def seal(releases: ImageReleases, text: str) -> Release:
    return releases.add(RunContract(("python", "main.py")), {"app/main.py": f"print({text!r})"})


@pytest.fixture
def elsewhere(tmp_path: Path) -> Store:
    """The store of another machine."""
    return Store(tmp_path / "elsewhere")


@pytest.fixture
def nobody(tmp_path: Path) -> Mapping[str, str]:
    """An environment without any configuration of Docker."""
    return {"HOME": str(tmp_path / "nobody"), "PATH": ""}


@pytest.fixture
def opened(nobody: Mapping[str, str]) -> Iterator[Open]:
    """Opens repositories: `opened(host, name, environ=…, chunk=…, certificates=…)`."""
    clients = []

    def run(host: str, name: str = "team/shop", environ: Mapping[str, str] = nobody, **options: object) -> Repository:
        chunk = {"chunk": options.pop("chunk")} if "chunk" in options else {}
        client = RegistryClient(host, environ, pause=no_pause, **options)  # type: ignore[arg-type]
        clients.append(client)
        return Repository(client, name, **chunk)  # type: ignore[arg-type]

    yield run
    for client in clients:
        client.close()


@pytest.fixture
def signed_in(tmp_path: Path) -> Mapping[str, str]:
    """An environment whose Docker configuration knows a user of registry.example.com."""
    (tmp_path / "config.json").write_text('{"auths": {"registry.example.com": {"username": "u", "password": "p"}}}')
    return {"DOCKER_CONFIG": str(tmp_path), "HOME": str(tmp_path), "PATH": ""}
