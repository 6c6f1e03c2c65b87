"""What is sent to one registry, and what it answers, translated: the only module that knows httpx.

Rules:
- Certificates are verified. Plain HTTP is spoken with this machine's loopback only, also where a redirect leads.
- A password is sent to the registry and to the realm it names, and to nobody that a redirect leads to.
- What can be asked twice without harm is asked again when the network or the registry fails, after growing pauses, or
  the pause the registry asks for, if that is short.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from rebake import __version__
from rebake.errors import Permanent, PlatformError, Transient
from rebake.registry import requests
from rebake.registry.credentials import Credentials, DockerConfig
from rebake.registry.faults import insecure, lost, refusal
from rebake.registry.requests import Ask, Challenge
from rebake.registry.trust import folders, tls_context

PAUSES = (0.2, 1.0, 3.0)
"""Seconds before each further try."""
LONGEST_PAUSE = 30.0
"""A registry that wants a longer one is given up, with its wish in the error."""
_TIMEOUT = httpx.Timeout(60.0, connect=10.0, pool=None)
_SMALL = 32 << 20
"""No document of an image is larger; more is not read."""
_SAFE = ("GET", "HEAD")


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, read whole. `headers` are found in either case; `url` is where it came from at last."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str


class _Verifying(httpx.BaseTransport):
    """TLS with the certificates of one registry, read when they are needed: that takes a while."""

    def __init__(self, host: str, places: tuple[Path, ...]) -> None:
        self._host, self._places = host, places
        self._lock = threading.Lock()
        self._transport: httpx.HTTPTransport | None = None

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        with self._lock:
            if self._transport is None:
                self._transport = httpx.HTTPTransport(verify=tls_context(self._host, self._places))
        return self._transport.handle_request(request)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class RegistryClient:
    """One registry, seen by one user. Safe from several threads.

    Args:
        registry: its name, `HOST[:PORT]` or `docker.io`.
        environ: of the user: where Docker's configuration and certificates are.
        pause: waits so many seconds.
        transport: instead of the network, in tests.
    """

    def __init__(
        self,
        registry: str,
        environ: Mapping[str, str],
        *,
        pause: Callable[[float], None] = time.sleep,
        transport: httpx.BaseTransport | None = None,
        certificates: tuple[Path, ...] | None = None,
    ) -> None:
        self.registry = registry
        self._host = requests.api_host(registry)
        self._config = DockerConfig(environ)
        self.pause = pause
        self._transport = transport
        self._places = folders(environ) if certificates is None else certificates
        self._authorizations: dict[str, str] = {}
        self._lock, self._signing = threading.Lock(), threading.Lock()
        self._http: httpx.Client | None = None
        self._root = ""

    @property
    def root(self) -> str:
        """`https://HOST`, or `http://HOST` for a registry on the loopback that speaks no TLS."""
        self._opened()
        return self._root

    def close(self) -> None:
        with self._lock:
            http, self._http = self._http, None
        if http is not None:
            http.close()

    def send(self, ask: Ask, scope: str, what: str, *, also: tuple[int, ...] = (), again: bool = False) -> Answer:
        """Ask, sign in if need be, and read the whole answer.

        Args:
            scope: what a token must allow, see `requests.scope`.
            what: what is asked for, for an error's words.
            also: statuses that are answers and no errors, besides those of success.
            again: it may be asked twice, though it changes something.
        Raises: PlatformError as in `faults`.
        """
        for wait in (*PAUSES, None):
            try:
                with self.stream(ask, scope, what, also=also) as answer:
                    return Answer(answer.status_code, answer.headers, _read(answer), str(answer.url))
            except Transient as error:
                may = again or ask.method in _SAFE or error.code == "registry-busy"
                if wait is None or not may or error.retry_after_seconds > LONGEST_PAUSE:
                    raise
                self.pause(max(wait, error.retry_after_seconds if error.code == "registry-busy" else 0.0))
        raise AssertionError("unreachable")

    @contextmanager
    def stream(self, ask: Ask, scope: str, what: str, *, also: tuple[int, ...] = ()) -> Iterator[httpx.Response]:
        """As `send`, once, with the body of a good answer still to be read; reading it is translated too."""
        with self._errors():
            answer = self._once(ask, scope)
            if answer.status_code == 401 and self._sign_in(answer, scope):
                answer = self._once(ask, scope)
            try:
                if not (answer.is_success or answer.status_code in also):
                    raise refusal(self.registry, what, answer.status_code, answer.headers, _read(answer))
                yield answer
            finally:
                answer.close()

    # -- inside ----------------------------------------------------------------------------------------------------

    def _once(self, ask: Ask, scope: str) -> httpx.Response:
        http = self._opened()
        said = self._authorizations.get(scope) if ask.url.startswith(f"{self._root}/") else None
        headers = {**ask.headers, **({"Authorization": said} if said else {})}
        request = http.build_request(ask.method, ask.url, headers=headers, content=ask.content or None)
        return http.send(request, stream=True, follow_redirects=ask.method in _SAFE)

    def _opened(self) -> httpx.Client:
        with self._lock:
            if self._http is None:
                self._http = httpx.Client(
                    verify=False,  # nothing is asked by TLS but through what is mounted
                    mounts={"https://": self._transport or _Verifying(self._host, self._places)},
                    transport=self._transport,
                    timeout=_TIMEOUT,
                    headers={"User-Agent": f"rebake/{__version__}"},
                    event_hooks={"request": [self._must_be_private]},
                )
                self._root = f"{self._scheme(self._http)}://{self._host}"
            return self._http

    def _scheme(self, http: httpx.Client) -> str:
        """Whether TLS is spoken; only on the loopback need that be asked. Nothing is told to whoever answers there."""
        if not requests.is_loopback(self._host):
            return "https"
        try:
            # A server that speaks TLS answers this with 400, or not at all.
            return "https" if http.get(f"http://{self._host}/v2/").status_code == 400 else "http"
        except httpx.RemoteProtocolError:
            return "https"
        except httpx.HTTPError:
            return "http"  # the question itself will tell what is wrong

    def _must_be_private(self, request: httpx.Request) -> None:
        if request.url.scheme != "https" and not requests.is_loopback(request.url.host):
            raise insecure(request.url.netloc.decode())

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPError as error:
            raise lost(self.registry, error) from error

    # -- signing in ------------------------------------------------------------------------------------------------

    def _sign_in(self, answer: httpx.Response, scope: str) -> bool:
        """Answer the registry's challenge; False when nothing new could be said. One at a time, for all who wait."""
        refused = answer.request.headers.get("authorization")
        found = {one.scheme: one for one in requests.challenges(answer.headers.get("www-authenticate", ""))}
        with self._signing:
            if self._authorizations.get(scope) == refused:
                who = self._config.credentials(self.registry)
                if "bearer" in found:
                    self._authorizations[scope] = f"Bearer {self._token(found['bearer'], scope, who)}"
                elif "basic" in found and who is not None:
                    self._authorizations[scope] = requests.basic(who.user, who.password)
            if self._authorizations.get(scope) == refused:
                return False
        answer.close()
        return True

    def _token(self, challenge: Challenge, scope: str, who: Credentials | None) -> str:
        realm = challenge.parameters.get("realm", "")
        if not realm.startswith(("https://", "http://")):
            raise self._no_token(f"the registry names no realm, but {realm[:80]!r}")
        if who is not None and who.identity_token:
            ask = requests.refresh_token(challenge, scope, who.identity_token)
        else:
            authorization = requests.basic(who.user, who.password) if who is not None else None
            ask = requests.get_token(challenge, scope, authorization)
        http = self._opened()
        answer = http.request(ask.method, ask.url, headers=dict(ask.headers), content=ask.content or None)
        if not answer.is_success:
            status = 401 if answer.status_code == 400 else answer.status_code
            raise refusal(self.registry, "a token for it", status, answer.headers, answer.content)
        try:
            doc = answer.json()
            return str(doc.get("token") or doc["access_token"])
        except (ValueError, KeyError, AttributeError) as error:
            raise self._no_token("the realm's answer holds none") from error

    def _no_token(self, problem: str) -> PlatformError:
        return Permanent(
            "registry-refused",
            f"no token can be had for {self.registry}: {problem}",
            where=self.registry,
            remedy="this is a mistake in the registry's configuration: tell whoever runs it",
        )


def _read(answer: httpx.Response) -> bytes:
    """The body of a document. What is far too large is cut, so that it fails by its digest and not by the memory."""
    found = bytearray()
    for piece in answer.iter_bytes():
        found += piece
        if len(found) > _SMALL:
            break
    return bytes(found)
