"""The dashboard's door: who is let in, by which name, and to do what."""

from __future__ import annotations

from html.parser import HTMLParser
from importlib.resources import files

import pytest
from starlette.testclient import TestClient
from tests.cli.fake import FakeApplication
from tests.unit.server.test_api_calls import FakeHost

from rebake.errors import Permanent
from rebake.server.dashboard import Dashboard, bind_loopback, host_name

PORT = 45678
HOME = f"http://127.0.0.1:{PORT}"


@pytest.fixture
def dashboard() -> Dashboard:
    return Dashboard(FakeApplication(), FakeHost(), PORT)


@pytest.fixture
def stranger(dashboard: Dashboard) -> TestClient:
    return TestClient(dashboard.app(), base_url=HOME)


@pytest.fixture
def friend(dashboard: Dashboard, stranger: TestClient) -> TestClient:
    assert stranger.get(f"/?token={dashboard.token}").status_code == 200
    return stranger


def test_the_token_is_in_the_address_once_and_then_in_a_cookie(dashboard: Dashboard, stranger: TestClient) -> None:
    entered = stranger.get(f"/?token={dashboard.token}", follow_redirects=False)
    assert entered.status_code == 303
    assert entered.headers["location"] == "/"
    cookie = entered.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert stranger.get("/").status_code == 200


@pytest.mark.parametrize("path", ["/", "/dashboard.js", "/v1/status", "/v1/ledger", "/?token=", "/?token=wrong"])
def test_without_the_token_nothing(path: str, stranger: TestClient) -> None:
    response = stranger.get(path)
    assert response.status_code == 403
    assert response.json()["error"] == "dashboard-token"


def test_the_token_opens_the_page_only(dashboard: Dashboard, stranger: TestClient) -> None:
    assert stranger.get(f"/v1/status?token={dashboard.token}").status_code == 403


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example:45678", "", "localhost.evil", "0.0.0.0:45678"]
)
def test_by_a_foreign_name_nothing_even_with_the_cookie(host: str, friend: TestClient) -> None:
    response = friend.get("/v1/status", headers={"host": host})
    assert response.status_code == 403
    assert response.json()["error"] == "dashboard-host"


@pytest.mark.parametrize("host", ["localhost:45678", "127.0.0.1:1", "LOCALHOST", "[::1]:45678"])
def test_loopback_names(host: str, dashboard: Dashboard, friend: TestClient) -> None:
    cookie = {"cookie": f"rebake-{PORT}={dashboard.token}", "host": host}
    assert friend.get("/v1/status", headers=cookie).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_but_reading(method: str, friend: TestClient) -> None:
    response = friend.request(method, "/v1/environments/guestbook/production/undo")
    assert response.status_code == 403
    assert response.json()["error"] == "dashboard-reads-only"


@pytest.mark.parametrize("path", ["/v1/environments/guestbook/production/drift", "/v1/dashboard", "/etc/passwd"])
def test_calls_that_do_work_are_not_there(path: str, friend: TestClient) -> None:
    assert friend.get(path).status_code == 404


def test_no_foreign_code_gets_in(friend: TestClient) -> None:
    for path in ("/", "/v1/status", "/nothing"):
        headers = friend.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


class Assets(HTMLParser):
    """Every address that the page loads, and every script or style written into it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.found += [value for name, value in attrs if name in ("src", "href") and value]
        self.inline += [name for name in given if name.startswith("on") or name == "style"]


def test_the_page_loads_only_what_we_serve(friend: TestClient) -> None:
    page = Assets()
    page.feed(friend.get("/").text)
    wanted = [address for address in page.found if not address.startswith(("#", "data:"))]
    assert sorted(wanted) == ["/dashboard.css", "/dashboard.js"]
    assert page.inline == []
    assert all(friend.get(address).status_code == 200 for address in wanted)


def test_texts_go_in_as_text() -> None:
    script = files("rebake.server").joinpath("static", "dashboard.js").read_text()
    assert not [
        word for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "eval(", "document.write") if word in script
    ]


def test_a_port_that_is_taken() -> None:
    with bind_loopback(0) as first:
        port = first.getsockname()[1]
        with pytest.raises(Permanent, match="cannot listen") as caught:
            bind_loopback(port)
    assert caught.value.code == "address-in-use"
    assert str(port) in str(caught.value.where)


def test_the_token_is_never_shown_by_accident(dashboard: Dashboard) -> None:
    assert dashboard.token not in repr(dashboard)
    assert len(dashboard.token) >= 43


def test_names_of_hosts() -> None:
    assert host_name("a:b:c") == "a"
    assert host_name("[::1") == "[::1]"
