"""HTTP/1.1 over threads, and an end that loses no request."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from guestbook.handlers import ROUTES, Answer, Instance, Request, answer

LARGEST_BODY = 65_536  # bytes


class Server(ThreadingHTTPServer):
    """One instance's server, with a thread for each connection."""

    daemon_threads = False  # so that server_close waits for them
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], instance: Instance) -> None:
        super().__init__(address, Connection)
        self.instance = instance
        self._numbers = {path: itertools.count() for _, path in ROUTES}
        self.stopping = False
        self._idle: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._accepting = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})
        self._nobody_waits = False

    def number(self, path: str) -> int:
        """How many requests for a path came before; 0 for a path that nothing is at."""
        return next(self._numbers[path]) if path in self._numbers else 0

    def start(self) -> None:
        """Serve in the background."""
        self._accepting.start()

    def stop(self) -> None:
        """Accept no more, answer what has come, close idle connections; return when all is answered."""
        self.shutdown()
        self._accept_who_waits()
        with self._lock:
            self.stopping = True
            for connection in self._idle:
                _end_of_input(connection)
        self.server_close()

    def _accept_who_waits(self) -> None:
        # The kernel has connected them already: closing now would reset them.
        self.timeout = 0
        while not self._nobody_waits:
            self.handle_request()

    def handle_timeout(self) -> None:
        self._nobody_waits = True

    def idle(self, connection: socket.socket) -> None:
        """The connection waits for its next request."""
        with self._lock:
            self._idle.add(connection)
            if self.stopping:
                _end_of_input(connection)

    def busy(self, connection: socket.socket) -> None:
        """A request has begun on the connection, or it has ended."""
        with self._lock:
            self._idle.discard(connection)


class Connection(BaseHTTPRequestHandler):
    """One keep-alive connection. It has no idle timeout: whoever forwards requests closes it first, and never finds a
    connection closed that it was about to use."""

    server: Server
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave together
    disable_nagle_algorithm = True

    def handle_one_request(self) -> None:
        self.server.idle(self.connection)
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True
        finally:
            self.server.busy(self.connection)

    def parse_request(self) -> bool:
        self.server.busy(self.connection)
        return super().parse_request()

    def handle_expect_100(self) -> bool:
        going_on = super().handle_expect_100()
        self.wfile.flush()  # the body comes only after this
        return going_on

    def _serve(self) -> None:
        length = self.headers.get("Content-Length", "0")
        if not length.isascii() or not length.isdigit() or int(length) > LARGEST_BODY:
            self.close_connection = True  # what follows is no request
            self._send(Answer.of({"error": f"a body has at most {LARGEST_BODY} bytes, and says its length"}, 413))
            return
        body = self.rfile.read(int(length))
        content_type = self.headers.get("Content-Type", "")
        path = self.path.partition("?")[0]
        request = Request(self.server.instance, self.server.number(path), content_type, body)
        try:
            self._send(answer(self.command, path, request))
        except ConnectionError:
            raise
        except Exception:
            traceback.print_exc()
            self._send(Answer.of({"error": "something went wrong here; it is in the log"}, 500))

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _send(self, reply: Answer) -> None:
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(reply.body)))
        self.send_header("X-Revision", self.server.instance.revision)
        if reply.location:
            self.send_header("Location", reply.location)
        if self.server.stopping or self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of each request: whoever forwards them writes that log."""


def _end_of_input(connection: socket.socket) -> None:
    """Nothing more will come; what has come already is still read and answered."""
    with contextlib.suppress(OSError):  # the other side was faster
        connection.shutdown(socket.SHUT_RD)
