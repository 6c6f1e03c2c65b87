"""What a registry and the network can answer, said by a stand-in: each error by name, what is tried again, and to whom
a password is never sent."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx
import pytest

from rebake.core.digest import digest_bytes
from rebake.errors import Permanent, PlatformError, Transient
from rebake.registry import requests
from rebake.registry.client import LONGEST_PAUSE, RegistryClient
from rebake.registry.faults import retry_after
from rebake.registry.repository import Repository
from rebake.registry.tally import Tally

HOST = "registry.example.com"
Handler = Callable[[httpx.Request], httpx.Response]


class Stand:
    """A registry that answers as the test says. `asked`: every request; `waited`: every pause between two tries."""

    def __init__(self, answer: Handler, environ: Mapping[str, str]) -> None:
        self.asked: list[httpx.Request] = []
        self.waited: list[float] = []

        def handle(request: httpx.Request) -> httpx.Response:
            self.asked.append(request)
            return answer(request)

        transport = httpx.MockTransport(handle)
        self.client = RegistryClient(HOST, environ, pause=self.waited.append, transport=transport)
        self.repository = Repository(self.client, "team/shop", chunk=100)


def always(status: int, **headers: str) -> Handler:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: httpx.Response(status, headers=named, json={"errors": [{"code": "SAID", "message": "so"}]})


def streamed(data: bytes) -> httpx.Response:
    """An answer as the network brings it: still to be read."""
    return httpx.Response(200, stream=httpx.ByteStream(data))


@pytest.mark.parametrize(
    ("status", "code", "again"),
    [
        (401, "registry-unauthorized", 0),
        (403, "registry-denied", 0),
        (404, "image-unknown", 0),
        (418, "registry-refused", 0),
        (429, "registry-busy", 3),
        (500, "registry-failed", 3),
        (503, "registry-failed", 3),
        (507, "registry-full", 0),
    ],
)
def test_each_refusal_has_its_name_and_what_may_pass_is_tried_again(
    status: int, code: str, again: int, nobody: Mapping[str, str]
) -> None:
    stand = Stand(always(status), nobody)
    with pytest.raises(PlatformError) as refused:
        stand.repository.manifest("1.0")
    assert refused.value.code == code
    assert refused.value.where == HOST
    assert refused.value.remedy
    assert "SAID: so" in refused.value.evidence
    assert len(stand.waited) == again


def test_a_disk_of_the_registry_that_is_full_is_told_also_where_it_says_so_in_words_only(
    nobody: Mapping[str, str],
) -> None:
    body = {"errors": [{"code": "UNKNOWN", "message": "unknown error", "detail": {"Err": "no space left on device"}}]}
    stand = Stand(lambda _: httpx.Response(500, json=body), nobody)
    with pytest.raises(Permanent) as full:
        stand.repository.upload_bytes(b"x")
    assert full.value.code == "registry-full"


def test_the_pause_that_a_busy_registry_asks_for_is_kept_and_one_too_long_ends_it(nobody: Mapping[str, str]) -> None:
    answers = iter([always(429, Retry_After="7"), always(200)])
    stand = Stand(lambda request: next(answers)(request), nobody)  # noqa: PLW0108 the next one each time
    stand.repository.manifest("1.0")
    assert stand.waited == [7.0]
    long = Stand(always(429, Retry_After=f"{LONGEST_PAUSE + 1:.0f}"), nobody)
    with pytest.raises(Transient) as busy:
        long.repository.manifest("1.0")
    assert (long.waited, busy.value.retry_after_seconds) == ([], LONGEST_PAUSE + 1)


def test_a_pause_may_be_given_as_a_date() -> None:
    headers = {"retry-after": "Mon, 30 Nov 2026 12:00:30 GMT", "date": "Mon, 30 Nov 2026 12:00:00 GMT"}
    assert retry_after(headers) == 30.0
    assert retry_after({"retry-after": "soon"}) > 0


def test_a_host_without_an_address_is_told(nobody: Mapping[str, str]) -> None:
    client = RegistryClient("registry.invalid", nobody, pause=lambda _: None)
    with pytest.raises(Permanent) as unknown:
        Repository(client, "shop").manifest("1.0")
    assert unknown.value.code == "registry-host-unknown"


def test_nobody_at_the_port_is_told_and_may_be_tried_again(nobody: Mapping[str, str]) -> None:
    client = RegistryClient("127.0.0.1:1", nobody, pause=lambda _: None)
    with pytest.raises(Transient) as gone:
        Repository(client, "shop").manifest("1.0")
    assert gone.value.code == "registry-unreachable"


# -- what is sent to whom ------------------------------------------------------------------------------------


def test_a_password_does_not_follow_a_redirect_to_another_host(signed_in: Mapping[str, str], tmp_path: Path) -> None:
    data = b"layer"

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host != HOST:
            return streamed(data)
        if "authorization" not in request.headers:
            return httpx.Response(401, headers={"www-authenticate": 'Basic realm="r"'})
        return httpx.Response(307, headers={"location": "https://cdn.example.org/layer"})

    stand = Stand(answer, signed_in)
    stand.repository.download(digest_bytes(data), len(data), tmp_path / "layer", lambda _: None)
    assert (tmp_path / "layer").read_bytes() == data
    assert [("authorization" in r.headers, r.url.host) for r in stand.asked] == [
        (False, HOST),
        (True, HOST),
        (False, "cdn.example.org"),
    ]


def test_an_upload_that_goes_on_at_another_host_is_not_told_the_password(signed_in: Mapping[str, str]) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "HEAD":
            return httpx.Response(404)
        if request.method == "POST" and "authorization" not in request.headers:
            return httpx.Response(401, headers={"www-authenticate": 'Basic realm="r"'})
        return httpx.Response(
            202 if request.method == "POST" else 201, headers={"location": "https://up.example.org/1"}
        )

    stand = Stand(answer, signed_in)
    stand.repository.upload_bytes(b"x")
    assert [r.url.host for r in stand.asked if "authorization" in r.headers] == [HOST]
    assert stand.asked[-1].url.host == "up.example.org"


@pytest.mark.parametrize("place", ["http://cdn.example.org/layer", "http://registry.example.com/v2/"])
def test_a_redirect_to_plain_http_is_not_followed(place: str, nobody: Mapping[str, str], tmp_path: Path) -> None:
    stand = Stand(lambda _: httpx.Response(307, headers={"location": place}), nobody)
    with pytest.raises(Permanent) as insecure:
        stand.repository.download(digest_bytes(b"x"), 1, tmp_path / "x", lambda _: None)
    assert insecure.value.code == "registry-insecure"
    assert len(stand.asked) == 1


def test_a_realm_of_plain_http_is_not_told_the_password(signed_in: Mapping[str, str]) -> None:
    realm = 'Bearer realm="http://auth.example.com/token",service="r"'
    stand = Stand(lambda _: httpx.Response(401, headers={"www-authenticate": realm}), signed_in)
    with pytest.raises(Permanent) as insecure:
        stand.repository.manifest("1.0")
    assert insecure.value.code == "registry-insecure"
    assert [r.url.host for r in stand.asked] == [HOST]


@pytest.mark.parametrize("realm", ['Bearer service="r"', 'Bearer realm="file:///etc/passwd"'])
def test_a_challenge_without_a_usable_realm_is_told(realm: str, nobody: Mapping[str, str]) -> None:
    stand = Stand(lambda _: httpx.Response(401, headers={"www-authenticate": realm}), nobody)
    with pytest.raises(Permanent) as refused:
        stand.repository.manifest("1.0")
    assert refused.value.code == "registry-refused"


def test_a_token_that_ran_out_is_had_anew(nobody: Mapping[str, str]) -> None:
    tokens = iter(["first", "second"])
    good = {"first"}

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host == "auth.example.com":
            return httpx.Response(200, json={"access_token": next(tokens)})
        if request.headers.get("authorization", "").removeprefix("Bearer ") in good:
            return httpx.Response(200, json={})
        return httpx.Response(401, headers={"www-authenticate": 'Bearer realm="https://auth.example.com/"'})

    stand = Stand(answer, nobody)
    stand.repository.manifest("1.0")
    good.clear()
    good.add("second")
    stand.repository.manifest("1.0")


# -- transfers that break ------------------------------------------------------------------------------------


class Keeper:
    """A registry that keeps what arrived of a chunk before the connection broke, and says so, as the spec has it."""

    def __init__(self, breaks: int, *, forgets: bool = False) -> None:
        self.breaks, self.forgets = breaks, forgets
        self.begun = self.sent = 0
        self.data = bytearray()
        self.whole = b""

    def __call__(self, request: httpx.Request) -> httpx.Response:
        here = {"location": "/v2/team/shop/blobs/uploads/1", "range": f"0-{max(0, len(self.data) - 1)}"}
        if request.method == "HEAD":
            return httpx.Response(404)
        if request.method == "POST":
            self.begun += 1
            self.data.clear()
            return httpx.Response(202, headers={"location": "/v2/team/shop/blobs/uploads/1?a=b"})
        if request.method == "GET":
            return httpx.Response(404) if self.forgets else httpx.Response(204, headers=here)
        if request.method == "PUT":
            self.sent += len(request.content)
            self.data += request.content
            self.whole = bytes(self.data)
            return httpx.Response(201)
        start = int(re.match(r"(\d+)-", request.headers["content-range"])[1])  # type: ignore[index]
        if start != len(self.data):
            return httpx.Response(416)
        self.sent += len(request.content)
        if self.breaks:
            self.breaks -= 1
            self.data += request.content[:60]
            raise httpx.WriteError("broken pipe")
        self.data += request.content
        return httpx.Response(202, headers={**here, "range": f"0-{len(self.data) - 1}"})


@pytest.mark.parametrize(("forgets", "begun"), [(False, 1), (True, 2)])
def test_a_broken_upload_goes_on_behind_what_arrived_or_begins_anew(
    forgets: bool, begun: int, nobody: Mapping[str, str], tmp_path: Path
) -> None:
    data = bytes(range(250)) * 2
    (tmp_path / "blob").write_bytes(data)
    keeper, moved = Keeper(1, forgets=forgets), list[int]()
    stand = Stand(keeper, nobody)
    stand.repository.upload(digest_bytes(data), tmp_path / "blob", len(data), moved.append)
    assert keeper.whole == data
    assert keeper.begun == begun
    assert sum(moved) == len(data)
    assert keeper.sent == len(data) + (100 if forgets else 40), "what had arrived was not sent again"


def test_an_upload_that_always_breaks_is_given_up(nobody: Mapping[str, str], tmp_path: Path) -> None:
    data = bytes(300)
    (tmp_path / "blob").write_bytes(data)
    with pytest.raises(Transient) as broken:
        Stand(Keeper(99), nobody).repository.upload(digest_bytes(data), tmp_path / "blob", 300, lambda _: None)
    assert broken.value.code == "registry-unreachable"


def test_an_upload_without_a_place_is_told(nobody: Mapping[str, str], tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"x")
    stand = Stand(lambda r: httpx.Response(404 if r.method == "HEAD" else 202), nobody)
    with pytest.raises(Transient) as broken:
        stand.repository.upload(digest_bytes(b"x"), tmp_path / "blob", 1, lambda _: None)
    assert broken.value.code == "registry-upload-broken"


def test_a_server_that_knows_no_ranges_is_read_from_the_start_again(nobody: Mapping[str, str], tmp_path: Path) -> None:
    data = bytes(range(200))

    class Half(httpx.SyncByteStream):
        def __iter__(self):  # type: ignore[no-untyped-def]
            yield data[:100]
            raise httpx.ReadError("connection reset")

    answers = iter([httpx.Response(200, stream=Half()), streamed(data)])
    moved: list[int] = []
    stand = Stand(lambda _: next(answers), nobody)
    stand.repository.download(digest_bytes(data), len(data), tmp_path / "x", moved.append)
    assert (tmp_path / "x").read_bytes() == data
    assert sum(moved) == len(data)
    assert stand.asked[1].headers["range"] == "bytes=100-"


@pytest.mark.parametrize("sent", [b"short", b"longer than the image says"])
def test_a_blob_of_another_length_is_refused(sent: bytes, nobody: Mapping[str, str], tmp_path: Path) -> None:
    stand = Stand(lambda _: streamed(sent), nobody)
    with pytest.raises(Permanent) as other:
        stand.repository.download(digest_bytes(b"ten bytes."), 10, tmp_path / "x", lambda _: None)
    assert other.value.code == "registry-digest-mismatch"


def test_a_manifest_with_other_bytes_than_its_digest_is_refused(nobody: Mapping[str, str]) -> None:
    stand = Stand(lambda _: httpx.Response(200, json={}), nobody)
    with pytest.raises(Permanent) as other:
        stand.repository.manifest("sha256:" + hashlib.sha256(b"{ }").hexdigest())
    assert other.value.code == "registry-digest-mismatch"


# -- referrers -----------------------------------------------------------------------------------------------


def test_referrers_are_read_page_by_page_where_the_registry_lists_them(nobody: Mapping[str, str]) -> None:
    rows = [{"digest": digest_bytes(bytes([n])), "artifactType": kind} for n, kind in enumerate("aba")]

    def answer(request: httpx.Request) -> httpx.Response:
        if "n=2" in str(request.url):
            return httpx.Response(200, json={"manifests": rows[2:]})
        link = f'<{request.url.path}?n=2>; rel="next"'
        return httpx.Response(200, json={"manifests": rows[:2]}, headers={"link": link})

    found = Stand(answer, nobody).repository.referrers(digest_bytes(b"image"), "a")
    assert found == [rows[0], rows[2]]


def test_an_artifact_that_the_registry_lists_itself_is_not_listed_by_a_tag_too(nobody: Mapping[str, str]) -> None:
    image = digest_bytes(b"image")
    subject = {"digest": image, "size": 5, "mediaType": "x"}

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(201, headers={"oci-subject": image, "location": "/v2/u"})

    stand = Stand(answer, nobody)
    attached = stand.repository.attach(subject, "a", [])
    put = [str(r.url) for r in stand.asked if "/manifests/" in str(r.url)]
    assert put == [f"https://{HOST}/v2/team/shop/manifests/{attached}"]


# -- what is asked, as data ----------------------------------------------------------------------------------


def test_a_chunk_says_where_it_belongs() -> None:
    ask = requests.put_chunk("https://r/u?s=1", 100, b"abc")
    assert (ask.method, ask.headers["Content-Range"], ask.content) == ("PATCH", "100-102", b"abc")


def test_the_place_of_an_upload_keeps_its_own_query() -> None:
    assert (
        requests.finish_upload("https://r/u?_state=a%3D", "sha256:x").url == "https://r/u?_state=a%3D&digest=sha256%3Ax"
    )


def test_two_challenges_in_one_header_are_told_apart() -> None:
    found = requests.challenges(
        'Basic realm="a, b", Bearer realm="https://r/t",service="s \\"q\\"",scope="x:y:pull,push"'
    )
    assert [(one.scheme, dict(one.parameters)) for one in found] == [
        ("basic", {"realm": "a, b"}),
        ("bearer", {"realm": "https://r/t", "service": 's "q"', "scope": "x:y:pull,push"}),
    ]


@pytest.mark.parametrize(
    ("host", "own"),
    [("localhost:5000", True), ("127.0.0.1", True), ("[::1]:5000", True), ("127.0.0.1.example.com", False)],
)
def test_only_this_machines_loopback_is_loopback(host: str, own: bool) -> None:
    assert requests.is_loopback(host) is own


def test_the_words_of_progress_say_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 0.5, 1.5])
    monkeypatch.setattr("rebake.registry.tally.time.monotonic", lambda: next(now))
    said: list[str] = []
    counted = Tally("push", "r/shop", 2048, said.append)
    counted.moved(512)
    counted.moved(512)
    assert said == ["push r/shop: 1.0 KiB of 2.0 KiB"]
