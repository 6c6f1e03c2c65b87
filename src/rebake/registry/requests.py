"""What is asked of a registry, and what its answers' headers mean: pure, compared whole in tests.

Source: OCI distribution-spec v1.1; RFC 9110 for challenges and ranges, RFC 8288 for links; the token protocol of
distribution/docs/spec/auth.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

from rebake.core.canonical import canonical
from rebake.core.digest import digest_bytes
from rebake.release.documents import INDEX_TYPE, MANIFEST_TYPE, descriptor
from rebake.release.reference import DOCKER_HUB

DOCKER_INDEX_TYPE = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
EMPTY = b"{}"
ACCEPT = ", ".join((MANIFEST_TYPE, INDEX_TYPE, DOCKER_MANIFEST_TYPE, DOCKER_INDEX_TYPE))
CLIENT_ID = "rebake"


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `url` is absolute; `content` the whole body."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes = b""


@dataclass(frozen=True, slots=True)
class Challenge:
    """How a registry wants to be signed in to: scheme in lower case, and its parameters."""

    scheme: str
    parameters: Mapping[str, str]


def api_host(registry: str) -> str:
    """The host that answers for a registry's name."""
    return "registry-1.docker.io" if registry == DOCKER_HUB else registry


def is_loopback(host: str) -> bool:
    """Whether `HOST[:PORT]` is this machine by its own address, where nobody listens in on the way."""
    name = urlsplit(f"//{host}").hostname or ""
    return name in ("localhost", "::1") or re.fullmatch(r"127(\.\d{1,3}){3}", name) is not None


def scope(repository: str, *, push: bool, mounted: str = "") -> str:
    """What a token must allow: one or two scopes, separated by a blank."""
    own = f"repository:{repository}:{'pull,push' if push else 'pull'}"
    return f"{own} repository:{mounted}:pull" if mounted else own


# -- manifests and blobs ---------------------------------------------------------------------------------------------


def manifest_url(root: str, repository: str, reference: str) -> str:
    return f"{root}/v2/{repository}/manifests/{reference}"


def get_manifest(root: str, repository: str, reference: str, *, head: bool = False) -> Ask:
    return Ask("HEAD" if head else "GET", manifest_url(root, repository, reference), {"Accept": ACCEPT})


def put_manifest(root: str, repository: str, reference: str, media_type: str, data: bytes) -> Ask:
    return Ask("PUT", manifest_url(root, repository, reference), {"Content-Type": media_type}, data)


def head_blob(root: str, repository: str, digest: str) -> Ask:
    return Ask("HEAD", f"{root}/v2/{repository}/blobs/{digest}")


def get_blob(root: str, repository: str, digest: str, start: int = 0) -> Ask:
    """Args: start: bytes that are here already."""
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    return Ask("GET", f"{root}/v2/{repository}/blobs/{digest}", headers)


def begin_upload(root: str, repository: str, *, digest: str = "", mounted: str = "") -> Ask:
    """Begin to send a blob, or, with `mounted`, take it over from that repository of the same registry."""
    query = f"?{urlencode({'mount': digest, 'from': mounted})}" if mounted else ""
    return Ask("POST", f"{root}/v2/{repository}/blobs/uploads/{query}", {"Content-Length": "0"})


def put_chunk(location: str, start: int, data: bytes) -> Ask:
    """The bytes from `start` on. Source: "Pushing a blob in chunks"."""
    span = f"{start}-{start + len(data) - 1}"
    return Ask("PATCH", location, {"Content-Type": "application/octet-stream", "Content-Range": span}, data)


def upload_status(location: str) -> Ask:
    return Ask("GET", location)


def finish_upload(location: str, digest: str, data: bytes = b"") -> Ask:
    """Close an upload, with the last or only bytes of it."""
    parts = urlsplit(location)
    query = urlencode([*parse_qsl(parts.query, keep_blank_values=True), ("digest", digest)])
    return Ask("PUT", urlunsplit(parts._replace(query=query)), {"Content-Type": "application/octet-stream"}, data)


def cancel_upload(location: str) -> Ask:
    """Source: Docker Registry HTTP API V2, "Canceling an Upload"; not every registry knows it."""
    return Ask("DELETE", location)


def next_location(asked: str, location: str) -> str:
    """Where an upload goes on; the registry may say so relative to what was asked."""
    return urljoin(asked, location)


def received(said: str) -> int:
    """How many bytes of an upload have arrived, by its `Range` header; 0 when it does not say.

    `0-0` stands for nothing or for one byte: then the upload is better begun again.

    >>> received("0-1023"), received("bytes=0-9"), received("0-0"), received("")
    (1024, 10, 0, 0)
    """
    match = re.fullmatch(r"(?:bytes=)?0-(\d+)", said.strip())
    return int(match[1]) + 1 if match and int(match[1]) else 0


def starts_at(said: str) -> int | None:
    """Where the bytes of a partial answer begin, by `Content-Range`.

    >>> starts_at("bytes 10-99/100")
    10
    """
    match = re.match(r"bytes (\d+)-", said)
    return int(match[1]) if match else None


# -- artifacts that refer to an image ----------------------------------------------------------------------------------


def artifact_manifest(
    subject: Mapping[str, Any], artifact_type: str, layers: Sequence[Mapping[str, Any]], annotations: Mapping[str, str]
) -> bytes:
    """A manifest that says something of another one. Source: OCI image-spec v1.1, manifest.md, "Guidance"."""
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": artifact_type,
        "config": descriptor(EMPTY_TYPE, digest_bytes(EMPTY), len(EMPTY)),
        "layers": [dict(layer) for layer in layers],
        "subject": dict(subject),
    }
    return canonical(document | ({"annotations": dict(annotations)} if annotations else {}))


def get_referrers(root: str, repository: str, digest: str, artifact_type: str) -> Ask:
    query = f"?{urlencode({'artifactType': artifact_type})}" if artifact_type else ""
    return Ask("GET", f"{root}/v2/{repository}/referrers/{digest}{query}", {"Accept": INDEX_TYPE})


def referrers_tag(digest: str) -> str:
    """Where registries without the referrers API keep the list. Source: "Referrers Tag Schema"."""
    return digest.replace(":", "-", 1)


def next_page(asked: str, link: str) -> str | None:
    """The next page of a list, by its `Link` header."""
    match = re.search(r'<([^>]*)>\s*;[^,]*\brel="?next"?', link)
    return urljoin(asked, match[1]) if match else None


# -- signing in --------------------------------------------------------------------------------------------------------


def challenges(said: str) -> list[Challenge]:
    """What a `WWW-Authenticate` header asks for.

    >>> challenges('Bearer realm="https://auth.example.com/token",service="r",scope="repository:a:pull,push"')[0].scheme
    'bearer'
    """
    found: list[Challenge] = []
    for match in re.finditer(r'([A-Za-z][A-Za-z0-9-]*)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,]+))|([A-Za-z]+)', said):
        if match[4] is not None:
            found.append(Challenge(match[4].lower(), {}))
        elif found:
            value = match[3] if match[3] is not None else re.sub(r"\\(.)", r"\1", match[2])
            found[-1] = Challenge(found[-1].scheme, {**found[-1].parameters, match[1].lower(): value})
    return found


def basic(user: str, password: str) -> str:
    """Source: RFC 7617."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def get_token(challenge: Challenge, scopes: str, authorization: str | None) -> Ask:
    """Ask the realm for a token, with a password or anonymously. Source: distribution, spec/auth/token."""
    query = [(key, challenge.parameters[key]) for key in ("service",) if key in challenge.parameters]
    query += [("scope", one) for one in scopes.split()]
    headers = {"Authorization": authorization} if authorization else {}
    return Ask("GET", _with_query(challenge.parameters.get("realm", ""), query), headers)


def refresh_token(challenge: Challenge, scopes: str, identity_token: str) -> Ask:
    """Ask the realm for a token, with an identity token. Source: distribution, spec/auth/oauth."""
    form = {
        "grant_type": "refresh_token",
        "refresh_token": identity_token,
        "client_id": CLIENT_ID,
        "service": challenge.parameters.get("service", ""),
        "scope": scopes,
    }
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    return Ask("POST", challenge.parameters.get("realm", ""), headers, urlencode(form).encode())


def _with_query(url: str, query: Sequence[tuple[str, str]]) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(query="&".join(filter(None, (parts.query, urlencode(query))))))
