"""A pod's port by WebSocket, as the kubelet leads to it: `v4.channel.k8s.io`, two channels for each port.

Source: Kubernetes, `kubelet/pkg/cri/streaming/portforward/websocket.go`.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from websockets.frames import Frame, Opcode
from websockets.server import ServerProtocol

from rebake.testing.kubernetes.status import ApiError, bad_request

PROTOCOL = "v4.channel.k8s.io"
DATA, ERROR = b"\0", b"\1"
Asked = Callable[[str], tuple[int, str] | None]
"""What the pod answers to GET of a path; None where nothing listens."""


def check(headers: Mapping[str, str], query: Mapping[str, str]) -> None:
    """Raises: ApiError 400, 403."""
    if headers.get("upgrade", "").lower() != "websocket":
        raise bad_request("Upgrade request required")
    if PROTOCOL not in {one.strip() for one in headers.get("sec-websocket-protocol", "").split(",")}:
        raise ApiError(403, "Forbidden", f"unable to negotiate a subprotocol: {PROTOCOL} is served")
    if not query.get("ports", "").isdigit() or not 0 < int(query["ports"]) < 65536:
        raise bad_request('query parameter "ports" is required')


@dataclass(frozen=True, slots=True)
class Tunnel:
    """Attributes: head: the request as it came, to its empty line."""

    head: bytes
    port: int
    ask: Asked

    def serve(self, peer: socket.socket) -> None:
        """Until either end closes."""
        protocol = ServerProtocol(subprotocols=[PROTOCOL], max_size=None)  # type: ignore[list-item]
        protocol.receive_data(self.head)
        (request,) = protocol.events_received()
        protocol.send_response(protocol.accept(request))  # type: ignore[arg-type]
        number = struct.pack("<H", self.port)
        protocol.send_binary(DATA + number)
        protocol.send_binary(ERROR + number)
        said = b""
        if self.ask("/") is None:
            protocol.send_binary(ERROR + f"error forwarding port {self.port} to pod: connection refused".encode())
            protocol.send_close()
        while _flush(protocol, peer) and (data := peer.recv(1 << 16)):
            protocol.receive_data(data)
            for frame in protocol.events_received():
                if isinstance(frame, Frame) and frame.opcode is Opcode.BINARY and frame.data[:1] == DATA:
                    said += bytes(frame.data[1:])
            if b"\r\n\r\n" in said:
                protocol.send_binary(DATA + self._answer(said))
                said = b""
                protocol.send_close()

    def _answer(self, request: bytes) -> bytes:
        """What the pod says to one request, and then ends."""
        words = request.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        code, body = self.ask(words[1] if len(words) > 1 else "/") or (503, "")
        text = body.encode()
        return f"HTTP/1.1 {code} X\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n".encode() + text


def _flush(protocol: ServerProtocol, peer: socket.socket) -> bool:
    for data in protocol.data_to_send():
        if data:
            peer.sendall(data)
    return not protocol.close_expected()
