"""One repository of a registry: manifests, blobs and what refers to them.

Rules:
- Nothing that was fetched is believed before it was compared with its digest.
- A blob that is there is not sent. One that another repository of the same registry has is taken over from it.
- A transfer that broke is continued where the other side says it stopped; where it does not say, it is begun again.
- What refers to an image (SBOM, provenance, signature, the release itself) is an artifact with the image as its
  `subject`, listed by the referrers API, or by the tag schema where a registry has no such API.

Source: OCI distribution-spec v1.1; OCI image-spec v1.1.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from rebake.core.canonical import canonical
from rebake.core.digest import digest_bytes, is_digest
from rebake.errors import Permanent, PlatformError, Transient
from rebake.registry import requests
from rebake.registry.client import PAUSES, Answer, RegistryClient
from rebake.registry.faults import other_bytes
from rebake.release.documents import INDEX_TYPE, MANIFEST_TYPE, descriptor

CHUNK = 16 << 20
"""Bytes of a blob that are sent in one request, and kept in memory for it."""
_PAGES = 100
"""Of a list of referrers: a registry that has ever another one is not followed for ever."""
Moved = Callable[[int], None]
"""Told how many bytes were moved since it was told last; less than nothing when some must be moved again."""


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest or index, byte for byte."""

    digest: str
    media_type: str
    data: bytes

    def json(self) -> Any:
        return json.loads(self.data)


class Repository:
    """See the module. Safe from several threads. Every method raises PlatformError as in `faults`.

    Args:
        name: in the registry, such as `team/shop`.
    """

    def __init__(self, client: RegistryClient, name: str, *, chunk: int = CHUNK) -> None:
        self._client, self.name, self._chunk = client, name, chunk
        self._begun: deque[str] = deque()
        """Places of uploads that were begun and wait for a blob."""
        self._found: set[str] = set()
        """Manifests that are there: whoever makes a repository does so for one command."""

    @property
    def place(self) -> str:
        """As people write it."""
        return f"{self._client.registry}/{self.name}"

    # -- manifests -------------------------------------------------------------------------------------------------

    def resolve(self, tag: str) -> str | None:
        """The digest that a tag names now; None where there is no such tag, or the registry does not say."""
        ask = requests.get_manifest(self._client.root, self.name, tag, head=True)
        answer = self._send(ask, f"image {self.name}:{tag}", also=(404,))
        said = answer.headers.get("docker-content-digest", "")
        return said if answer.status == 200 and is_digest(said) else None

    def manifest(self, reference: str) -> Document:
        """A manifest or index by tag or digest. Raises: Permanent `registry-digest-mismatch`, `image-unknown`."""
        what = f"image {self.name}{'@' if is_digest(reference) else ':'}{reference}"
        answer = self._send(requests.get_manifest(self._client.root, self.name, reference), what)
        digest = digest_bytes(answer.body)
        if is_digest(reference) and digest != reference:
            raise other_bytes(self._client.registry, what, reference, digest)
        return Document(digest, _media_type(answer), answer.body)

    def put_manifest(self, document: Document, tag: str = "") -> bool:
        """Put a manifest or index, by digest or under a tag.

        Returns: whether the registry says that it lists it with its subject.
        """
        reference, what = tag or document.digest, f"image {self.name}"
        ask = requests.put_manifest(self._client.root, self.name, reference, document.media_type, document.data)
        answer = self._send(ask, what, push=True, again=True)
        said = answer.headers.get("docker-content-digest", document.digest)
        if said != document.digest:
            raise other_bytes(self._client.registry, what, document.digest, said)
        return "oci-subject" in answer.headers

    def has_manifest(self, digest: str) -> bool:
        """Whether it is there, and so all that it names. Asked with the right to push, as what follows is; and once."""
        if digest not in self._found:
            ask = requests.get_manifest(self._client.root, self.name, digest, head=True)
            if self._send(ask, f"image {self.name}@{digest}", push=True, also=(404,)).status != 200:
                return False
            self._found.add(digest)
        return True

    # -- referrers -------------------------------------------------------------------------------------------------

    def referrers(self, digest: str, artifact_type: str = "") -> list[dict[str, Any]]:
        """Descriptors of the artifacts that have this image as their subject."""
        found: list[dict[str, Any]] = []
        url: str | None = None
        for _ in range(_PAGES):
            ask = requests.get_referrers(self._client.root, self.name, digest, artifact_type)
            answer = self._send(requests.Ask("GET", url, ask.headers) if url else ask, "referrers", also=(404, 405))
            if answer.status != 200:
                found = self._tagged_referrers(digest)
                break
            found += _rows(answer.body)
            url = requests.next_page(answer.url, answer.headers.get("link", ""))
            if url is None:
                break
        return [row for row in found if not artifact_type or row.get("artifactType") == artifact_type]

    def attach(
        self,
        subject: Mapping[str, Any],
        artifact_type: str,
        layers: Sequence[Mapping[str, Any]],
    ) -> str:
        """Put an artifact that refers to an image, which may come later. Returns its digest; idempotent.

        Args:
            subject: descriptor of the image's manifest.
            layers: descriptors of blobs that are there.
        """
        self.upload_bytes(requests.EMPTY)  # its configuration
        data = requests.artifact_manifest(subject, artifact_type, layers, {})
        document = Document(digest_bytes(data), MANIFEST_TYPE, data)
        if not self.put_manifest(document):
            row = descriptor(MANIFEST_TYPE, document.digest, len(data)) | {"artifactType": artifact_type}
            self._tag_referrer(str(subject["digest"]), row)
        return document.digest

    def _tagged_referrers(self, digest: str, *, push: bool = False) -> list[dict[str, Any]]:
        """What the tag schema lists, where a registry has no API for it. Args: push: something is about to be put."""
        ask = requests.get_manifest(self._client.root, self.name, requests.referrers_tag(digest))
        answer = self._send(ask, "referrers", push=push, also=(404,))
        return _rows(answer.body) if answer.status == 200 else []

    def _tag_referrer(self, digest: str, row: Mapping[str, Any]) -> None:
        rows = self._tagged_referrers(digest, push=True)
        if any(one.get("digest") == row["digest"] for one in rows):
            return
        data = canonical({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [*rows, dict(row)]})
        self.put_manifest(Document(digest_bytes(data), INDEX_TYPE, data), requests.referrers_tag(digest))

    # -- blobs to the registry -------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Begin an upload before it is known of what: a connection is open then, and signed in."""
        self._begun.append(self._begin())

    def abandon(self) -> None:
        """Give up what was begun and is not needed. A registry that cannot do that clears it away by itself later."""
        while self._begun:
            with suppress(PlatformError, IndexError):
                self._send(requests.cancel_upload(self._begun.popleft()), f"repository {self.name}", push=True)

    def has_blob(self, digest: str) -> bool:
        ask = requests.head_blob(self._client.root, self.name, digest)
        return self._send(ask, f"blob {digest}", push=True, also=(404,)).status == 200

    def upload_bytes(self, data: bytes) -> str:
        """Send a small blob, unless it is there. Returns its digest."""
        digest = digest_bytes(data)
        if not self.has_blob(digest):
            location = self._begin()
            self._send(requests.finish_upload(location, digest, data), f"blob {digest}", push=True)
        return digest

    def mount(self, digest: str, other: str) -> bool:
        """Take a blob over from another repository of this registry. False when that cannot be."""
        ask = requests.begin_upload(self._client.root, self.name, digest=digest, mounted=other)
        scope = requests.scope(self.name, push=True, mounted=other)
        try:
            return self._client.send(ask, scope, f"blob {digest}").status == 201
        except Permanent:  # who may not read the other one still has the blob here
            return False

    def upload(self, digest: str, path: Path, size: int, moved: Moved) -> None:
        """Send a blob that is not there, in chunks; continued after a break.

        Raises: also OSError of reading it; Transient `registry-upload-broken`.
        """
        sent, location, failures = 0, "", 0
        what = f"blob {digest}"
        with path.open("rb") as file:
            while True:
                try:
                    location = location or self._place()
                    if size - sent > self._chunk:
                        location, sent = self._chunk_sent(location, file, sent, moved)
                    else:
                        self._send(requests.finish_upload(location, digest, _part(file, sent, size)), what, push=True)
                        moved(size - sent)
                        return
                except PlatformError as error:
                    if failures >= len(PAUSES) or not _may_go_on(error, location):
                        raise
                    self._client.pause(PAUSES[failures])
                    failures += 1
                    known = sent
                    location, sent = self._resumed(location)
                    moved(sent - known)
                    if not sent and self.has_blob(digest):
                        moved(size)
                        return

    def _place(self) -> str:
        """Where to send a blob."""
        with suppress(IndexError):
            return self._begun.popleft()
        return self._begin()

    def _begin(self) -> str:
        ask = requests.begin_upload(self._client.root, self.name)
        return self._location(ask.url, self._send(ask, f"repository {self.name}", push=True))

    def _chunk_sent(self, location: str, file: BinaryIO, sent: int, moved: Moved) -> tuple[str, int]:
        data = _part(file, sent, sent + self._chunk)
        answer = self._send(requests.put_chunk(location, sent, data), f"repository {self.name}", push=True)
        arrived = requests.received(answer.headers.get("range", "")) or sent + len(data)
        moved(arrived - sent)
        return self._location(location, answer), arrived

    def _resumed(self, location: str) -> tuple[str, int]:
        """Where an upload that broke goes on; nowhere, if it must be begun again."""
        if location:
            with suppress(PlatformError):
                answer = self._send(requests.upload_status(location), f"repository {self.name}", push=True)
                if arrived := requests.received(answer.headers.get("range", "")):
                    return self._location(location, answer), arrived
        return "", 0

    def _location(self, asked: str, answer: Answer) -> str:
        said = answer.headers.get("location")
        if not said:
            raise Transient(
                "registry-upload-broken",
                f"expected the place of the upload from {self._client.registry}, found none",
                where=self.place,
                remedy="push again; if it stays so, a proxy before the registry may take the Location header away",
            )
        return requests.next_location(asked, said)

    # -- blobs from the registry -----------------------------------------------------------------------------------

    def download(self, digest: str, size: int, path: Path, moved: Moved) -> None:
        """Fetch a blob into a file; continued after a break.

        Raises: also OSError of writing it; Permanent `registry-digest-mismatch`.
        """
        state, have, failures = hashlib.sha256(), 0, 0
        with path.open("wb") as out:
            while have < size:
                before = have
                try:
                    ask = requests.get_blob(self._client.root, self.name, digest, have)
                    with self._client.stream(ask, self._scope(push=False), f"blob {digest}") as answer:
                        if have and requests.starts_at(answer.headers.get("content-range", "")) != have:
                            moved(-have)
                            state, have = hashlib.sha256(), 0  # it knows no ranges, and sends all of it
                            out.seek(0)
                            out.truncate()
                        for piece in answer.iter_raw():
                            out.write(piece)
                            state.update(piece)
                            have += len(piece)
                            moved(len(piece))
                            if have > size:
                                break
                    if have < size:
                        break  # it is shorter than the image says
                except PlatformError as error:
                    failures = 0 if have > before else failures
                    if failures >= len(PAUSES) or not isinstance(error, Transient):
                        raise
                    self._client.pause(PAUSES[failures])
                    failures += 1
        found = f"sha256:{state.hexdigest()}"
        if found != digest:
            raise other_bytes(self._client.registry, f"the blob of {self.place}", digest, found)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _scope(self, *, push: bool) -> str:
        return requests.scope(self.name, push=push)

    def _send(
        self, ask: requests.Ask, what: str, *, push: bool = False, also: tuple[int, ...] = (), again: bool = False
    ) -> Answer:
        return self._client.send(ask, self._scope(push=push), what, also=also, again=again)


def _may_go_on(error: PlatformError, location: str) -> bool:
    """Whether an upload may come through when it is tried once more: it broke, or its place is not known any more."""
    return isinstance(error, Transient) or (bool(location) and error.code in ("registry-refused", "image-unknown"))


def _part(file: BinaryIO, start: int, end: int) -> bytes:
    file.seek(start)
    return file.read(end - start)


def _media_type(answer: Answer) -> str:
    """As the document says it, else as the answer does."""
    with suppress(ValueError, AttributeError):
        said = json.loads(answer.body).get("mediaType")
        if said:
            return str(said)
    return answer.headers.get("content-type", "").partition(";")[0].strip()


def _rows(body: bytes) -> list[dict[str, Any]]:
    try:
        return [dict(row) for row in json.loads(body)["manifests"]]
    except (ValueError, KeyError, TypeError):
        return []
