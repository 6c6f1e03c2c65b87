"""A proxy that breaks a connection in the middle: relays bytes to a server and closes once, after so many."""

from __future__ import annotations

import contextlib
import select
import socket
import threading


class CuttingProxy:
    """Used as a context.

    Attributes:
        host: `127.0.0.1:PORT`, instead of the server's own.
        up, down: bytes that still pass to and from the server before one cut; None for all.
        cuts: how often it cut.
    """

    def __init__(self, server: str) -> None:
        host, _, port = server.partition(":")
        self._server = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.up: int | None = None
        self.down: int | None = None
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> CuttingProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(self._server) as server:
            while True:
                for source in select.select([client, server], [], [], 60)[0]:
                    data = source.recv(1 << 14)
                    whole = self._allowed(data, up=source is client)
                    (server if source is client else client).sendall(whole)
                    if len(whole) < len(data) or not data:
                        return

    def _allowed(self, data: bytes, *, up: bool) -> bytes:
        left = self.up if up else self.down
        if left is None:
            return data
        if len(data) <= left:
            left -= len(data)
        else:
            data, left = data[:left], None
            self.cuts += 1
        if up:
            self.up = left
        else:
            self.down = left
        return data
