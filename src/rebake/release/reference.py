"""References to images, as people write them: `registry/repository:tag@sha256:…`. Pure.

Rules:
- The first part names a registry if it holds a dot or a colon or is `localhost`; else the image is one of docker.io,
  and one without a slash is there below `library/`.
- A reference names a tag or a digest. None stands for `latest`: what a release is made of is said, not supposed.

Source: distribution/reference, reference.go and normalize.go; OCI distribution-spec v1.1, "Pulling manifests".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rebake.core.digest import is_digest

DOCKER_HUB = "docker.io"
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?")
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class Reference:
    """Where an image is. `tag` and `digest` are empty where they are not named."""

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """Registry and repository: `docker.io/library/python`."""
        return f"{self.registry}/{self.repository}"

    def __str__(self) -> str:
        tag, digest = f":{self.tag}" * bool(self.tag), f"@{self.digest}" * bool(self.digest)
        return f"{self.name}{tag}{digest}"


def parse_repository(text: str) -> Reference:
    """Registry and repository, without tag and digest. Raises: ValueError with what was expected and found.

    >>> parse_repository("registry.example.com/team/shop").registry
    'registry.example.com'
    """
    found = _split(text)
    if found.tag or found.digest:
        raise ValueError(f"expected a repository such as registry.example.com/team/shop, without a tag, found {text}")
    return found


def parse_reference(text: str) -> Reference:
    """An image by tag or digest. Raises: ValueError with what was expected and found.

    >>> str(parse_reference("python:3.12"))
    'docker.io/library/python:3.12'
    """
    found = _split(text)
    if not (found.tag or found.digest):
        raise ValueError(f"expected an image with its tag or digest (NAME:TAG, NAME@sha256:…), found {text}")
    return found


def _split(text: str) -> Reference:
    name, at, digest = text.partition("@")
    first, slash, rest = name.partition("/")
    if not (slash and (set(".:[") & set(first) or first == "localhost")):
        first, rest = DOCKER_HUB, name
    path, colon, tag = rest.partition(":")
    if first in (DOCKER_HUB, "index.docker.io"):
        first, path = DOCKER_HUB, path if "/" in path else f"library/{path}"
    whole = _HOST.fullmatch(first) and _REPOSITORY.fullmatch(path) and len(path) < 256
    if not whole or (colon and not _TAG.fullmatch(tag)) or (at and not is_digest(digest)):
        raise ValueError(f"expected an image such as registry.example.com/team/shop:1.2, found {text}")
    return Reference(first, path, tag, digest)
