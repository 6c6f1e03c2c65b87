"""A port of this machine whose connections the API server leads to a pod, for who cannot reach pods by their addresses.

Each connection is one WebSocket. What is sent arrives as it is: nothing reads, adds or rewrites a header, as the API
server's HTTP proxy would. A pod's end that is closed closes ours.

Source: Kubernetes, "Use Port Forwarding to Access Applications in a Cluster"; `kubelet/pkg/cri/streaming/portforward`,
`websocket.go` (`v4.channel.k8s.io`): of each port two channels, for bytes and for errors, each of which begins with the
port's number in two bytes.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Generator, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import httpx

from rebake.errors import PlatformError
from rebake.kubernetes.faults import refusal, unreachable
from rebake.kubernetes.resources import PODS

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

    from rebake.kubernetes.signin import SignIn

PROTOCOL = "v4.channel.k8s.io"
_DATA, _ERROR = 0, 1
_NUMBER_BYTES = 2
_CHUNK = 64 << 10
_OPEN_SECONDS = 10.0


@contextlib.contextmanager
def dial(sign: SignIn, namespace: str, pod: str, port: int) -> Iterator[ClientConnection]:
    """One connection to a pod's port. Raises: PlatformError, with the rule that is missing where one is."""
    from websockets.exceptions import InvalidHandshake, InvalidStatus

    where = f"pods/portforward {namespace}/{pod}:{port}"
    request = httpx.Request("GET", f"{sign.server}{PODS.path(namespace, pod, 'portforward')}?ports={port}")
    flow = None if sign.auth is None else sign.auth.sync_auth_flow(request)
    request = request if flow is None else next(flow)
    with contextlib.ExitStack() as stack:
        tunnel = None
        while tunnel is None:
            try:
                tunnel = stack.enter_context(_connecting(sign, request))
            except InvalidStatus as error:
                code, said = error.response.status_code, bytes(error.response.body or b"")
                fresh = _fresh(flow, httpx.Response(code, request=request))
                if fresh is None:
                    raise refusal(code, said, where, dict(error.response.headers)) from error
                request = fresh
            except (OSError, InvalidHandshake) as error:
                raise unreachable(error, sign.server, where) from error
        yield tunnel


def _connecting(sign: SignIn, request: httpx.Request) -> AbstractContextManager[ClientConnection]:
    from websockets.sync.client import connect
    from websockets.typing import Subprotocol

    return connect(
        _websocket(str(request.url)),
        ssl=_tls(sign),
        additional_headers=_signed(request),
        subprotocols=[Subprotocol(PROTOCOL)],
        user_agent_header="rebake",
        compression=None,
        proxy=None,
        open_timeout=_OPEN_SECONDS,
        close_timeout=1.0,
        ping_interval=None,
        max_size=None,
    )


def _fresh(flow: Generator[httpx.Request, httpx.Response] | None, answer: httpx.Response) -> httpx.Request | None:
    """The request with other credentials, where these were refused and there are others."""
    try:
        return None if flow is None else flow.send(answer)
    except StopIteration:
        return None


def _websocket(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(scheme="wss" if parts.scheme == "https" else "ws"))


def _tls(sign: SignIn) -> ssl.SSLContext | None:
    if not sign.server.startswith("https:"):
        return None
    return sign.verify if isinstance(sign.verify, ssl.SSLContext) else ssl.create_default_context()


def _signed(request: httpx.Request) -> Mapping[str, str]:
    found = request.headers.get("Authorization")
    return {} if found is None else {"Authorization": found}


class Forward:
    """One pod's port on loopback, from its construction to `close`.

    Attributes:
        address: `127.0.0.1:PORT`.
    """

    def __init__(self, sign: SignIn, namespace: str, pod: str, port: int) -> None:
        """Raises: PlatformError where the API server leads nobody there: it is asked once, before any user is."""
        self._place = sign, namespace, pod, port
        with dial(*self._place):
            pass
        self._open: set[Any] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, name="rebake-forward", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Nobody is led any more; connections under way are cut."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        with self._lock:
            left = list(self._open)
        for one in left:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(caller,), name="rebake-forward", daemon=True).start()

    def _carry(self, caller: socket.socket) -> None:
        with self._lock:
            self._open.add(caller)
        try:
            with caller, dial(*self._place) as tunnel:
                back = threading.Thread(target=_send, args=(caller, tunnel), name="rebake-forward", daemon=True)
                back.start()
                _receive(tunnel, caller)
                with contextlib.suppress(OSError):
                    caller.shutdown(socket.SHUT_RDWR)
                back.join()
        except (PlatformError, OSError):
            pass  # who called sees a connection that broke
        finally:
            with self._lock:
                self._open.discard(caller)


def _send(caller: socket.socket, tunnel: ClientConnection) -> None:
    """What the caller says, until it ends."""
    from websockets.exceptions import ConnectionClosed

    with contextlib.suppress(OSError, ConnectionClosed):
        while data := caller.recv(_CHUNK):
            tunnel.send(bytes([_DATA]) + data)


def _receive(tunnel: ClientConnection, caller: socket.socket) -> None:
    """What the pod says, until it ends, or the API server says why it cannot."""
    from websockets.exceptions import ConnectionClosed

    begun: set[int] = set()
    with contextlib.suppress(OSError, ConnectionClosed):
        while True:
            frame = tunnel.recv()
            data = frame.encode() if isinstance(frame, str) else bytes(frame)
            channel, rest = data[0], data[1:]
            if channel not in begun:
                begun.add(channel)
                rest = rest[_NUMBER_BYTES:]
            if channel == _ERROR and rest:
                return
            if channel == _DATA and rest:
                caller.sendall(rest)
