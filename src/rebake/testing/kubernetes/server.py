"""The socket of an emulated API server: HTTP or HTTPS on loopback, one thread for each connection."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from rebake.testing.kubernetes.api import Answer, Api, Dropped, Request

READ_SECONDS = 120.0
"""How long a connection may stand idle."""


class Server:
    """One listening socket, from construction to `close`.

    Attributes:
        url: `http://127.0.0.1:PORT`, or `https` with a context.
        port: of the URL.
    """

    def __init__(self, api: Api, tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        """Args: port: the one of a server that was closed; by default any that is free."""
        self._closing = threading.Event()
        self._connections: set[socket.socket] = set()
        server = self

        class Handler(_Handler):
            inside = api
            closing = server._closing
            connections = server._connections

        self._http = _Listener(("127.0.0.1", port), Handler)
        self._http.daemon_threads = True
        if tls is not None:
            self._http.socket = tls.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)
        self.port = int(self._http.server_address[1])
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self._api = api
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it, and every connection with it, whatever it is in the middle of."""
        self._closing.set()
        with self._api.store.changed:
            self._api.store.changed.notify_all()
        self._http.shutdown()
        self._http.server_close()
        for one in list(self._connections):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._thread.join()


class _Listener(ThreadingHTTPServer):
    request_queue_size = 128
    """Clients that connect at the same time; the library's five make the others wait a second each."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = READ_SECONDS
    inside: Api
    closing: threading.Event
    connections: set[socket.socket]

    def setup(self) -> None:
        super().setup()
        self.connections.add(self.connection)

    def finish(self) -> None:
        self.connections.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError, ssl.SSLError):
            super().handle()

    def _serve(self) -> None:
        place = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        name, organizations = self._certificate()
        request = Request(
            method=self.command,
            path=place.path,
            query=dict(parse_qsl(place.query, keep_blank_values=True)),
            headers={key.lower(): value for key, value in self.headers.items()},
            body=self.rfile.read(length) if length else b"",
            common_name=name,
            organizations=organizations,
            head=b"%s\r\n%s\r\n" % (self.requestline.encode("latin-1"), _lines(self.headers)),
        )
        self._send(self.inside.answer(request))

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = _serve

    def _certificate(self) -> tuple[str, tuple[str, ...]]:
        """A client's name and groups. Source: Kubernetes, "X509 client certificates": CN and O."""
        found: Any = self.connection.getpeercert() if isinstance(self.connection, ssl.SSLSocket) else None
        said = [pair for one in (found or {}).get("subject", ()) for pair in one]
        names = [value for key, value in said if key == "commonName"]
        return (names[0] if names else ""), tuple(value for key, value in said if key == "organizationName")

    def _send(self, answer: Answer) -> None:
        if answer.dropped:
            self.close_connection = True
            return
        if answer.tunnel is not None:
            self.close_connection = True
            answer.tunnel.serve(self.connection)
            return
        self.send_response(answer.code)
        self.send_header("Content-Type", answer.media)
        for key, value in answer.headers.items():
            self.send_header(key, value)
        if answer.stream is not None:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self._stream(answer.stream)
            return
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def _stream(self, batches: Iterator[bytes]) -> None:
        """Chunks until the watch ends; without the last chunk where it is cut or the server ends."""
        self.close_connection = True
        with contextlib.suppress(ConnectionError, Dropped):
            for batch in batches:
                if self.closing.is_set() or self._is_gone():
                    return
                if batch:
                    self.wfile.write(f"{len(batch):x}\r\n".encode() + batch + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")
            self.close_connection = False  # a watch that ended whole leaves its connection for the next request

    def _is_gone(self) -> bool:
        """Whether the client closed its end: on a stream it has nothing more to say."""
        watched = select.poll()  # unlike select, it takes any number of open files
        watched.register(self.connection, select.POLLIN)
        return bool(watched.poll(0))

    def log_message(self, *_: object) -> None:
        """Nothing is printed; `Api.asked` has every request."""


def _lines(headers: Message) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("latin-1")
