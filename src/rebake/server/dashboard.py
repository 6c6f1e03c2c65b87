"""The dashboard: one page over the reading calls of the API, on loopback, for whoever has its URL.

A page on loopback can be reached by every program of the machine and, by tricks with names, by web pages of others.
Three rules keep both out: a token of 256 bits that is in the URL once and then in a cookie; only loopback names in the
Host header (DNS rebinding); and nothing but reading, under a policy that lets no foreign code in.
"""

from __future__ import annotations

import hmac
import secrets
import socket
from dataclasses import dataclass, field
from importlib.resources import files
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rebake.errors import Permanent, Refused
from rebake.server.api import Api, Host, read_routes
from rebake.server.ports import Application
from rebake.server.replies import refusal

LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})

SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}

_PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/dashboard.css": ("dashboard.css", "text/css; charset=utf-8"),
    "/dashboard.js": ("dashboard.js", "text/javascript; charset=utf-8"),
}


def host_name(host: str) -> str:
    """The name in a Host header, without the port.

    >>> host_name("localhost:8080"), host_name("[::1]:80"), host_name("127.0.0.1")
    ('localhost', '[::1]', '127.0.0.1')
    """
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].lower()


def _refused(code: str, problem: str, remedy: str) -> Response:
    response = refusal(Refused(code, problem, remedy=remedy))
    response.status_code = 403
    return response


class Doorkeeper:
    """Lets in who has the token, by cookie; who brings it in the URL is given the cookie."""

    def __init__(self, app: ASGIApp, token: str, cookie: str) -> None:
        self._app = app
        self._token = token
        self._cookie = cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        door = self._decide(scope) or self._app
        await door(scope, receive, _with_security_headers(send))

    def _decide(self, scope: Scope) -> Response | None:
        """The answer of the door, or None to let the request in."""
        if host_name(Headers(scope=scope).get("host", "")) not in LOOPBACK_NAMES:
            return _refused("dashboard-host", "the dashboard answers to loopback names only", "rebake dashboard")
        if scope["method"] not in ("GET", "HEAD"):
            return _refused("dashboard-reads-only", "the dashboard changes nothing", "use the rebake command")
        if self._fits(Request(scope).cookies.get(self._cookie, "")):
            return None
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["path"] == "/" and self._fits(given):
            entered = RedirectResponse("/", 303)
            entered.set_cookie(self._cookie, self._token, httponly=True, samesite="strict", path="/")
            return entered
        return _refused("dashboard-token", "this address needs its token", "rebake dashboard prints the whole address")

    def _fits(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token.encode())


def _with_security_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            extra = [(name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]
            message = {**message, "headers": [*message.get("headers", ()), *extra]}
        await send(message)

    return sending


async def _page(request: Request) -> Response:
    name, kind = _PAGE[request.url.path]
    content = files("rebake.server").joinpath("static", name).read_bytes()
    return Response(content, headers={"cache-control": "no-store"}, media_type=kind)


def bind_loopback(port: int) -> socket.socket:
    """A listening socket on 127.0.0.1. Raises: Permanent `address-in-use`."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        listener.close()
        raise Permanent(
            "address-in-use",
            f"the dashboard cannot listen: {error.strerror}",
            where=f"127.0.0.1:{port}",
            remedy="choose another port: rebake dashboard --port PORT, or none for any free one",
        ) from error
    listener.listen(64)
    return listener


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One open dashboard."""

    application: Application
    host: Host
    port: int
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    @classmethod
    def open(cls, application: Application, host: Host, port: int) -> tuple[Dashboard, socket.socket]:
        """Listen on loopback (port 0: any). Raises: Permanent `address-in-use`."""
        listener = bind_loopback(port)
        return cls(application, host, listener.getsockname()[1]), listener

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/?token={self.token}"

    def app(self) -> ASGIApp:
        pages = [Route(path, _page, methods=["GET"]) for path in _PAGE]
        reading = read_routes(Api(self.application, self.host), self.application)
        # Cookies know no ports: the port in the name keeps two dashboards of one machine apart.
        return Doorkeeper(Starlette(routes=[*pages, *reading]), self.token, f"rebake-{self.port}")
