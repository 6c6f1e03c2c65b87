"""Push and pull against Debian's docker-registry: what is moved, who may, what is believed, what a break costs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from rebake.core.digest import digest_bytes
from rebake.errors import Permanent, PlatformError, UsageError
from rebake.registry.client import RegistryClient
from rebake.registry.known import Known
from rebake.registry.repository import Document
from rebake.registry.requests import Ask
from rebake.registry.transfer import pull_release, push_release
from rebake.release.documents import MANIFEST_TYPE, descriptor
from rebake.release.manifest import Release
from rebake.release.store import Store
from rebake.testing.images import ImageReleases
from rebake.testing.registry_server import PASSWORD, USER, Certificate, NoRegistry, RegistryServer, TokenRealm
from tests.cutting_proxy import CuttingProxy
from tests.unit.registry.conftest import Open, quiet, seal

pytestmark = pytest.mark.real


@pytest.fixture
def realm(tmp_path: Path) -> Iterator[TokenRealm]:
    (tmp_path / "realm").mkdir()
    try:
        made = TokenRealm(tmp_path / "realm")
    except NoRegistry as absent:
        pytest.skip(str(absent))
    yield made
    made.close()


def code_of(error: pytest.ExceptionInfo[PlatformError]) -> str:
    assert error.value.remedy
    return error.value.code


def test_a_release_comes_back_byte_for_byte_and_only_what_is_missing_moves(
    registry: RegistryServer, opened: Open, releases: ImageReleases, release: Release, elsewhere: Store
) -> None:
    there = opened(registry.host)
    first = push_release(releases.store, release, there, quiet)
    assert (first.held, first.mounted) == (0, 0)
    assert first.reference == f"{registry.host}/team/shop@{release.digest}"
    assert push_release(releases.store, release, there, quiet).sent == 0
    second = seal(releases, "two")
    pushed = push_release(releases.store, second, there, quiet)
    assert (pushed.sent, pushed.held) == (2, 1), "layer and config; the base is there"
    assert pushed.bytes < 100_000
    for one in (release, second):
        assert pull_release(elsewhere, there, one.digest, quiet) == one
        for digest in releases.store.needed(one.digest):
            assert elsewhere.blobs.read(digest) == releases.store.blobs.read(digest)


def test_the_next_push_asks_for_one_manifest_and_for_no_blob(
    registry: RegistryServer,
    opened: Open,
    releases: ImageReleases,
    elsewhere: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[str, str]] = []
    once = RegistryClient._once

    def heard(client: RegistryClient, ask: Ask, scope: str) -> httpx.Response:
        asked.append((ask.method, ask.url.partition("/v2/known/shop/")[2]))
        return once(client, ask, scope)

    monkeypatch.setattr(RegistryClient, "_once", heard)
    there, known = opened(registry.host, "known/shop"), Known(tmp_path / "pushed")
    first, second, third = (seal(releases, word) for word in ("one", "two", "three"))
    push_release(releases.store, first, there, quiet, known)
    asked.clear()
    pushed = push_release(releases.store, second, there, quiet, known)
    assert (pushed.sent, pushed.held) == (2, 1)
    assert [place for method, place in asked if method == "HEAD"] == [f"manifests/{first.digest}"]
    assert sorted(method for method, _ in asked) == ["HEAD", *["POST"] * 2, *["PUT"] * 3], "two blobs and the manifest"
    assert asked[-1] == ("PUT", f"manifests/{second.digest[7:19]}"), "which comes when all that it names is there"
    assert pull_release(elsewhere, there, second.digest, quiet) == second
    # What it was told of is not there any more: every blob is asked for.
    known.keep(there.place, {digest_bytes(name.encode()): blobs for name, blobs in known.of(there.place).items()})
    asked.clear()
    pushed = push_release(releases.store, third, there, quiet, known)
    assert (pushed.sent, pushed.held) == (2, 1)
    assert len([place for method, place in asked if method == "HEAD" and place.startswith("blobs/")]) == 1
    assert push_release(releases.store, third, there, quiet, known).sent == 0


def test_a_registry_that_lost_what_its_manifest_names_gets_it_again(
    registry: RegistryServer, opened: Open, releases: ImageReleases, elsewhere: Store, tmp_path: Path
) -> None:
    there, known = opened(registry.host, "lost/shop"), Known(tmp_path / "pushed")
    first, second = seal(releases, "one"), seal(releases, "two")
    push_release(releases.store, first, there, quiet, known)
    image = releases.store.read_json(second.digest)
    theirs = [str(row["digest"]) for row in (image["config"], *image["layers"])]
    known.keep(there.place, {first.digest: theirs})  # as if the blobs of the second had been there with the first
    push_release(releases.store, second, there, quiet, known)
    assert pull_release(elsewhere, there, second.digest, quiet) == second


def test_a_pull_fetches_only_what_is_not_here(
    registry: RegistryServer, opened: Open, releases: ImageReleases, release: Release, elsewhere: Store
) -> None:
    there = opened(registry.host, "only/missing")
    second = seal(releases, "two")
    for one in (release, second):
        push_release(releases.store, one, there, quiet)
    pull_release(elsewhere, there, release.digest, quiet)
    said: list[str] = []
    pull_release(elsewhere, there, second.digest, said.append)
    assert [line for line in said if line.startswith("pull 2 blobs")], said


def test_the_tag_of_a_release_names_it(
    registry: RegistryServer, opened: Open, releases: ImageReleases, release: Release
) -> None:
    there = opened(registry.host, "tagged")
    assert there.resolve(release.digest[7:19]) is None
    assert push_release(releases.store, release, there, quiet).tag == release.digest[7:19]
    assert there.resolve(release.digest[7:19]) == release.digest


def test_an_image_that_is_no_release_is_refused_by_name(
    registry: RegistryServer, opened: Open, releases: ImageReleases, release: Release, elsewhere: Store
) -> None:
    there = opened(registry.host, "plain/image")
    manifest = releases.store.read_json(release.digest)
    for row in (manifest["config"], *manifest["layers"]):
        there.upload(row["digest"], releases.store.blob_path(row["digest"]), row["size"], lambda _: None)
    said = manifest["annotations"]
    other = said["dev.rebake.release.document"].replace('"shop"', '"till"')
    lying = said["dev.rebake.release.document"].replace(digest_bytes(b""), digest_bytes(b"files"))
    notes: tuple[dict[str, str], ...] = (
        {},
        {**said, "dev.rebake.release.document": "nothing"},
        {**said, "dev.rebake.release.document": other},
        {"dev.rebake.release": digest_bytes(lying.encode()), "dev.rebake.release.document": lying},
    )
    for note in notes:
        data = json.dumps({**manifest, "annotations": note}).encode()
        there.put_manifest(Document(digest_bytes(data), MANIFEST_TYPE, data))
        with pytest.raises(UsageError) as refused:
            pull_release(elsewhere, there, digest_bytes(data), quiet)
        assert refused.value.code == "not-a-release"
        assert not elsewhere.holds(digest_bytes(data))


def test_what_is_not_there_is_named(registry: RegistryServer, opened: Open, elsewhere: Store) -> None:
    with pytest.raises(Permanent) as unknown:
        pull_release(elsewhere, opened(registry.host, "nobody/knows"), digest_bytes(b"x"), quiet)
    assert code_of(unknown) == "image-unknown"
    assert "nobody/knows" in unknown.value.problem


def test_an_artifact_is_listed_with_the_image_it_refers_to(
    registry: RegistryServer, opened: Open, releases: ImageReleases, release: Release
) -> None:
    there = opened(registry.host, "with/sbom")
    push_release(releases.store, release, there, quiet)
    subject = descriptor(MANIFEST_TYPE, release.digest, releases.store.blob_path(release.digest).stat().st_size)
    sbom = b'{"bomFormat":"CycloneDX"}'
    layer = descriptor("application/vnd.cyclonedx+json", there.upload_bytes(sbom), len(sbom))
    assert there.referrers(release.digest) == []
    attached = there.attach(subject, "application/vnd.cyclonedx+json", [layer])
    assert there.attach(subject, "application/vnd.cyclonedx+json", [layer]) == attached
    note = there.attach(subject, "text/plain", [])
    assert {row["digest"] for row in there.referrers(release.digest)} == {attached, note}
    only = there.referrers(release.digest, "application/vnd.cyclonedx+json")
    assert [row["digest"] for row in only] == [attached]
    assert there.manifest(attached).json()["subject"]["digest"] == release.digest


def test_a_blob_of_another_repository_is_taken_over_without_being_sent(
    registry: RegistryServer, opened: Open, releases: ImageReleases, release: Release
) -> None:
    base = release.layers[0]
    first, second = opened(registry.host, "bases/python"), opened(registry.host, "apps/shop")
    first.upload(base.digest, releases.store.blob_path(base.digest), base.size, lambda _: None)
    assert second.mount(base.digest, "bases/python")
    assert second.has_blob(base.digest)
    assert not second.mount(digest_bytes(b"nowhere"), "bases/python")


# -- who may -------------------------------------------------------------------------------------------------


def test_a_password_from_dockers_configuration_is_taken_and_a_wrong_one_is_told(
    opened: Open, releases: ImageReleases, release: Release, tmp_path: Path
) -> None:
    with RegistryServer(users=True) as server:
        with pytest.raises(Permanent) as unknown:
            push_release(releases.store, release, opened(server.host), quiet)
        assert code_of(unknown) == "registry-unauthorized"
        assert f"docker login {server.host}" in str(unknown.value.remedy)
        wrong = server.docker_config(tmp_path / "wrong", username=USER, password="guessed")
        with pytest.raises(Permanent) as refused:
            push_release(releases.store, release, opened(server.host, environ=wrong), quiet)
        assert code_of(refused) == "registry-unauthorized"
        right = server.docker_config(tmp_path / "right")
        assert push_release(releases.store, release, opened(server.host, environ=right), quiet).sent == 3


def test_a_token_is_had_for_a_password_and_for_an_identity_token(
    opened: Open, releases: ImageReleases, release: Release, elsewhere: Store, realm: TokenRealm, tmp_path: Path
) -> None:
    with RegistryServer(realm=realm) as server:
        by_password = server.docker_config(tmp_path / "password", username=USER, password=PASSWORD)
        push_release(releases.store, release, opened(server.host, environ=by_password), quiet)
        assert "repository:team/shop:pull,push" in realm.asked
        by_identity = server.docker_config(tmp_path / "identity", identitytoken=realm.IDENTITY)
        pull_release(elsewhere, opened(server.host, environ=by_identity), release.digest, quiet)
        with pytest.raises(Permanent) as unknown:
            pull_release(elsewhere, opened(server.host), release.digest, quiet)
        assert code_of(unknown) == "registry-unauthorized"


def test_who_may_only_read_is_told_so_at_a_push(
    opened: Open, releases: ImageReleases, release: Release, realm: TokenRealm, tmp_path: Path
) -> None:
    realm.grants = {"pull"}
    with RegistryServer(realm=realm) as server:
        known = server.docker_config(tmp_path / "config")
        with pytest.raises(Permanent) as denied:
            push_release(releases.store, release, opened(server.host, environ=known), quiet)
        assert code_of(denied) == "registry-denied"


def test_a_certificate_is_believed_only_if_its_authority_is(
    opened: Open, releases: ImageReleases, release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        certificate = Certificate.make(tmp_path)
    except NoRegistry as absent:
        pytest.skip(str(absent))
    with RegistryServer(certificate=certificate) as server:
        with pytest.raises(Permanent) as stranger:
            push_release(releases.store, release, opened(server.host), quiet)
        assert code_of(stranger) == "registry-certificate"
        folder = tmp_path / "certs.d" / server.host
        folder.mkdir(parents=True)
        (folder / "ca.crt").write_bytes(certificate.file.read_bytes())
        believing = opened(server.host, certificates=(tmp_path / "certs.d",))
        assert push_release(releases.store, release, believing, quiet).sent == 3
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate.file))
        assert push_release(releases.store, release, opened(server.host), quiet).sent == 0


# -- what breaks ---------------------------------------------------------------------------------------------


def test_a_fetch_that_broke_goes_on_where_it_stopped(
    registry: RegistryServer, opened: Open, releases: ImageReleases, release: Release, elsewhere: Store
) -> None:
    push_release(releases.store, release, opened(registry.host, "cut/down"), quiet)
    base = release.layers[0]
    with CuttingProxy(registry.host) as proxy:
        there = opened(proxy.host, "cut/down")
        assert there.has_blob(base.digest)
        proxy.down = base.size // 2
        moved: list[int] = []
        with elsewhere.pinned() as pin:
            there.download(base.digest, base.size, pin.temporary(), moved.append)
        assert proxy.cuts == 1
        assert sum(moved) == base.size, "no byte was fetched twice"
        proxy.down = base.size // 2
        assert pull_release(elsewhere, there, release.digest, quiet) == release
        assert proxy.cuts == 2


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_a_push_that_broke_anywhere_is_finished(
    registry: RegistryServer, opened: Open, releases: ImageReleases, release: Release, part: float
) -> None:
    base = release.layers[0]
    with CuttingProxy(registry.host) as proxy:
        there = opened(proxy.host, f"cut/up-{int(part * 10)}", chunk=1 << 20)
        proxy.up = int(base.size * part)
        push_release(releases.store, release, there, quiet)
        assert proxy.cuts == 1
        assert there.resolve(release.digest) == release.digest


def test_bytes_that_are_not_those_of_the_digest_are_not_kept(
    registry: RegistryServer, opened: Open, releases: ImageReleases, release: Release, elsewhere: Store
) -> None:
    there = opened(registry.host, "damaged")
    fresh = seal(releases, "about to be damaged")
    push_release(releases.store, fresh, there, quiet)
    layer = fresh.layers[-1].digest.removeprefix("sha256:")
    blob = registry.blobs / "sha256" / layer[:2] / layer / "data"
    blob.write_bytes(blob.read_bytes().replace(b"about", b"ABOUT"))
    with pytest.raises(Permanent) as damaged:
        pull_release(elsewhere, there, fresh.digest, quiet)
    assert code_of(damaged) == "registry-digest-mismatch"
    assert not elsewhere.holds(fresh.digest)
    assert not elsewhere.blobs.has(fresh.layers[-1].digest)


def test_a_disk_that_is_full_ends_a_pull_with_that_sentence(
    registry: RegistryServer,
    opened: Open,
    releases: ImageReleases,
    release: Release,
    elsewhere: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there = opened(registry.host, "full")
    push_release(releases.store, release, there, quiet)
    monkeypatch.setattr("rebake.release.blobs.Pin.temporary", lambda _: Path("/dev/full"))
    with pytest.raises(Permanent) as full:
        pull_release(elsewhere, there, release.digest, quiet)
    assert code_of(full) == "disk-full"


def test_a_store_that_is_damaged_here_is_found_before_it_is_sent(
    registry: RegistryServer, opened: Open, releases: ImageReleases, release: Release
) -> None:
    blob = releases.store.blob_path(release.layers[-1].digest)
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes().replace(b"one", b"ONE"))
    with pytest.raises(Permanent) as damaged:
        push_release(releases.store, release, opened(registry.host, "never/sent"), quiet)
    assert code_of(damaged) == "release-damaged"
