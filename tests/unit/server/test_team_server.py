"""A team's server: who is let in from afar, as whom, over which certificate; and what a supervisor is told."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient
from tests.cli.fake import FakeApplication, served
from tests.unit.server.test_api_calls import FakeHost

from rebake.errors import Permanent, RebakeError, Transient, UsageError
from rebake.server.api import api_app
from rebake.server.doors import Door, TokenFile
from rebake.server.probes import probes_app
from rebake.server.team import Certificate, listen
from rebake.server.wanted import Wanted
from rebake.testing.registry_server import Certificate as SelfSigned

ADA, PIPELINE = "a" * 32, "0123456789abcdef" * 4
UNDO = "/v1/environments/guestbook/production/undo"


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"# who may deploy\nada {ADA}\n\npipeline@ci  {PIPELINE}  # since May\n")
    return path


@pytest.fixture
def application() -> FakeApplication:
    return FakeApplication()


@pytest.fixture
def door(application: FakeApplication, tokens: Path) -> TestClient:
    return TestClient(Door(api_app(application, FakeHost()), TokenFile(tokens)))


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


@pytest.mark.parametrize("headers", [{}, bearer(""), bearer("b" * 32), bearer(ADA[:-1]), {"authorization": ADA}])
def test_without_a_token_nothing(door: TestClient, application: FakeApplication, headers: dict[str, str]) -> None:
    for refused in (door.get("/v1/status", headers=headers), door.post(UNDO, json={}, headers=headers)):
        assert refused.status_code == 401
        assert refused.json()["error"] == "server-token"
        assert refused.headers["www-authenticate"] == "Bearer"
        assert ADA not in refused.text
    assert application.calls == []


def test_who_asks_is_whose_token_it_is_whatever_is_said(door: TestClient, application: FakeApplication) -> None:
    said = {"requested_by": "root@everywhere", "from_afar": False}
    assert door.post(UNDO, json=said, headers=bearer(PIPELINE)).status_code == 200
    assert door.post(UNDO, headers=bearer(ADA)).status_code == 200
    asked = [call[3] for call in application.calls]
    assert asked == [
        {"requested_by": "pipeline@ci, who says root@everywhere", "from_afar": True},
        {"requested_by": "ada", "from_afar": True},
    ]


@pytest.mark.parametrize("path", ["/v1/agent/stop", "/v1/dashboard"])
def test_what_is_for_the_machine_itself_is_not_for_callers_from_afar(door: TestClient, path: str) -> None:
    refused = door.post(path, json={}, headers=bearer(ADA))
    assert (refused.status_code, refused.json()["error"]) == (403, "server-only-there")


def test_a_token_that_is_taken_away_is_worth_nothing_at_once(door: TestClient, tokens: Path) -> None:
    assert door.get("/v1/status", headers=bearer(ADA)).status_code == 200
    tokens.write_text(f"pipeline {PIPELINE}\n")
    assert door.get("/v1/status", headers=bearer(ADA)).status_code == 401
    assert door.get("/v1/status", headers=bearer(PIPELINE)).status_code == 200
    tokens.unlink()
    gone = door.get("/v1/status", headers=bearer(PIPELINE))
    assert (gone.status_code, gone.json()["error"]) == (502, "token-file")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "found none"),
        ("# nobody\n", "found none"),
        ("ada\n", "found another line"),
        (f"ada {ADA} {ADA}\n", "found another line"),
        ("ada secret\n", "at least 32 characters, found 6"),
    ],
)
def test_a_file_of_tokens_that_is_none_is_refused_by_its_line(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "tokens"
    path.write_text(text)
    with pytest.raises(Permanent, match=problem) as refusal:
        TokenFile(path)
    assert refusal.value.code == "token-file"
    assert str(path) in str(refusal.value.where)
    assert "secret" not in refusal.value.problem


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        (Wanted(serve="127.0.0.1:0"), "server-needs-tokens"),
        (Wanted(serve="0.0.0.0:0", tokens=Path("t")), "server-needs-certificate"),
        (Wanted(serve="example.com:0", tokens=Path("t"), certificate=Path("c")), "server-needs-certificate"),
        (Wanted(probes="9100"), "wrong-address"),
        (Wanted(probes="127.0.0.1:65536"), "wrong-address"),
    ],
)
def test_what_would_be_open_to_everybody_is_refused(wanted: Wanted, code: str) -> None:
    with pytest.raises(UsageError) as refusal:
        wanted.check()
    assert refusal.value.code == code
    assert refusal.value.remedy


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:0", "[::1]:0"])
def test_on_loopback_a_proxy_may_end_tls(address: str) -> None:
    Wanted(serve=address, tokens=Path("t")).check()


def test_an_address_that_is_taken_is_named() -> None:
    with listen("127.0.0.1:0") as first:
        taken = f"127.0.0.1:{first.getsockname()[1]}"
        with pytest.raises(Permanent) as refusal:
            listen(taken)
    assert (refusal.value.code, refusal.value.where) == ("address-in-use", taken)


class Signed:
    """A certificate on the disk, and who trusts it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        made = SelfSigned.make(folder)
        self.file, self.key = made.file, made.key

    def trusted(self) -> httpx.Client:
        return httpx.Client(verify=ssl.create_default_context(cafile=str(self.file)), timeout=20)


@pytest.fixture
def signed(tmp_path: Path) -> Signed:
    return Signed(tmp_path / "first")


def test_the_server_speaks_tls_and_the_probes_need_no_token(
    tmp_path: Path, application: FakeApplication, tokens: Path, signed: Signed
) -> None:
    wanted = Wanted("127.0.0.1:0", signed.file, signed.key, tokens, "127.0.0.1:0")
    with served(tmp_path / "home", application, wanted) as agent, signed.trusted() as client:
        api, probes = agent.urls
        assert api.startswith("https://127.0.0.1:")
        assert client.get(f"{api}/v1/status", headers=bearer(ADA)).status_code == 200
        assert client.get(f"{api}/v1/status").status_code == 401
        assert client.get(f"{probes}/livez").text == "ok\n"
        assert client.get(f"{probes}/v1/status").status_code == 404


def test_a_renewed_certificate_is_used_without_a_restart_and_a_broken_one_is_not(
    tmp_path: Path, signed: Signed
) -> None:
    """As cert-manager renews one: the files have other contents all at once."""
    certificate, other = Certificate(signed.file, signed.key), Signed(tmp_path / "other")
    before = certificate.context.cert_store_stats()
    signed.file.write_text("no certificate")
    with pytest.raises(Permanent) as refusal:
        certificate.renew()
    assert refusal.value.code == "server-certificate"
    signed.file.write_bytes(other.file.read_bytes())
    signed.key.write_bytes(other.key.read_bytes())
    certificate.renew()
    certificate.renew()
    assert certificate.context.cert_store_stats() == before
    assert _shown(certificate) == ssl.PEM_cert_to_DER_cert(other.file.read_text())


def _shown(certificate: Certificate) -> bytes:
    """What a client is shown, by two ends in memory."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = client.wrap_bio(to_client, to_server)
    there = certificate.context.wrap_bio(to_server, to_client, server_side=True)
    for end in (here, there, here, there):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
    shown = here.getpeercert(binary_form=True)
    assert shown is not None
    return shown


class Ailing(FakeApplication):
    """An application in trouble."""

    def __init__(self) -> None:
        super().__init__()
        self.problem: str | None = None
        self.error: RebakeError | None = None

    def ails(self) -> str | None:
        return self.problem

    def figures(self) -> dict[str, Any]:
        if self.error is not None:
            raise self.error
        return super().figures()

    def ledger(self, **asked: Any) -> dict[str, Any]:
        if self.error is not None:
            raise self.error
        return super().ledger(**asked)


@pytest.fixture
def ailing() -> Ailing:
    return Ailing()


@pytest.fixture
def probes(ailing: Ailing) -> Iterator[TestClient]:
    with TestClient(probes_app(ailing)) as client:
        yield client


def test_alive_and_ready_are_two_things(ailing: Ailing, probes: TestClient) -> None:
    assert [probes.get(path).status_code for path in ("/livez", "/readyz")] == [200, 200]
    ailing.error = Transient("ledger-unreachable", "the database does not answer")
    away = probes.get("/readyz")
    assert (away.status_code, away.text) == (503, "the database does not answer [ledger-unreachable]\n")
    assert probes.get("/livez").status_code == 200, "a restart brings no database back"
    assert probes.get("/metrics").status_code == 503
    ailing.error, ailing.problem = None, "a look at shop/production takes 300 s"
    hangs = probes.get("/livez")
    assert (hangs.status_code, hangs.text) == (503, "a look at shop/production takes 300 s\n")
    assert probes.get("/readyz").status_code == 200


def test_the_figures_are_what_prometheus_reads(probes: TestClient) -> None:
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(probes.get("/metrics").text)
        for sample in family.samples
    }
    assert found["rebake_environments", "docker"] == 2
    assert found["rebake_rollouts", "holding"] == 1
    assert found["rebake_led",] == 1
    assert found["rebake_looks_total",] == 7
    assert found["rebake_failed_looks_total",] == 3
    assert found["rebake_oldest_look_seconds",] == 0.5
    assert found["rebake_ledger_entries_total",] == 42
    assert found["process_resident_memory_bytes",] > 1e6
