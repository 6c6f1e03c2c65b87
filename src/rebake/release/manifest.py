"""The immutable things that are deployed: release (image + run contract) and revision (release + settings).

Every value here is frozen and made of integers and strings, so that its canonical bytes, and with them its digest,
are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal

from rebake.core.codec import dump
from rebake.core.digest import digest_of


@dataclass(frozen=True, slots=True)
class Health:
    """How an instance shows that it can serve. Times in milliseconds.

    Attributes:
        path: asked with GET; empty: nothing is asked.
        command: run in the instance's place, exit 0 is well; only without a path. With neither, staying up is health.
    """

    path: str = "/healthz"
    interval_ms: int = 500
    timeout_ms: int = 2000
    start_timeout_ms: int = 30_000
    healthy_after: int = 1
    unhealthy_after: int = 3
    command: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Resources:
    """What one instance may use; None means no limit."""

    memory_bytes: int | None = None
    cpu_millis: int | None = None


@dataclass(frozen=True, slots=True)
class RunContract:
    """How one instance is run. `command` sees no shell; `$PORT`, `$HOST` and names under `env` are expanded in it."""

    command: tuple[str, ...]
    port: int | None = None
    health: Health = Health()
    drain_ms: int = 10_000
    env: dict[str, str] = field(default_factory=dict)
    resources: Resources = Resources()


LayerRole = Literal["base", "dependencies", "application"]


@dataclass(frozen=True, slots=True)
class Layer:
    """One OCI layer. `digest` is of the blob, `diff_id` of the uncompressed tar (equal where it is not compressed)."""

    digest: str
    diff_id: str
    size: int
    media_type: str
    role: LayerRole


@dataclass(frozen=True, slots=True)
class Package:
    name: str
    version: str


@dataclass(frozen=True, slots=True)
class Runtime:
    """What the release expects of its base: on `base: host` the host must offer it.

    Attributes:
        kind: `python`, `node` or `none`.
        version: `3.11` for python (minor), `20` for node (major), empty for none.
        platform: `linux/amd64`, or `any` when nothing in the layers is compiled.
    """

    kind: Literal["python", "node", "none"] = "none"
    version: str = ""
    platform: str = "any"


@dataclass(frozen=True, slots=True)
class Release:
    """A sealed release, named by the digest of its OCI image manifest.

    In the image, `/app` holds the application (the working directory of `command`), `/deps` the dependencies:
    `deps/lib/pythonX.Y/site-packages` and `deps/bin` for python, `deps/node_modules` for node (then
    `app/node_modules` is a symbolic link to `../deps/node_modules`).
    """

    digest: str
    service: str
    builder: str
    run: RunContract
    layers: tuple[Layer, ...]
    packages: tuple[Package, ...] = ()
    runtime: Runtime = Runtime()
    base: str = "host"

    @property
    def size(self) -> int:
        """Bytes of all layers."""
        return sum(layer.size for layer in self.layers)


@dataclass(frozen=True, slots=True)
class SecretVersion:
    """A secret by where it came from and which version it is. The value itself is never part of any document."""

    source: str
    version: str


@dataclass(frozen=True, slots=True)
class Settings:
    """What an environment adds to a release."""

    env: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, SecretVersion] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Revision:
    """Release + the environment's settings and secret versions, named by digest.

    A changed setting is another revision; going back to a revision brings its settings back.
    """

    service: str
    environment: str
    release: str
    settings: Settings = Settings()

    @property
    def digest(self) -> str:
        settings = self.settings
        parts = (tuple(settings.env.items()), tuple(settings.secrets.items()))
        return _revision_digest(self.service, self.environment, self.release, *parts)


@lru_cache(maxsize=4096)
def _revision_digest(
    service: str,
    environment: str,
    release: str,
    env: tuple[tuple[str, str], ...],
    secrets: tuple[tuple[str, SecretVersion], ...],
) -> str:
    """Looks and views ask for the same few again and again."""
    return digest_of(dump(Revision(service, environment, release, Settings(dict(env), dict(secrets)))))


def contract_in(run: RunContract, settings: Settings) -> RunContract:
    """The run contract as one environment runs it: its settings win over the release's own."""
    return replace(run, env={**run.env, **settings.env})


def run_contract_of(doc: Mapping[str, Any]) -> RunContract:
    """A run contract from its JSON value, as `codec.load` gives it, without loading pydantic for it."""
    return RunContract(
        command=tuple(doc["command"]),
        port=doc["port"],
        health=Health(**{**doc["health"], "command": tuple(doc["health"].get("command", ()))}),
        drain_ms=doc["drain_ms"],
        env=dict(doc["env"]),
        resources=Resources(**doc["resources"]),
    )
