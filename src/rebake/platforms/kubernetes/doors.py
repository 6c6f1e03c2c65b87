"""How a machine reaches pods: by their own addresses where it is a pod itself, else through the API server.

An address of a pod means something within its cluster only. From outside it may be nobody's, or another machine's that
answers; so it is not tried first. Where the API server cannot lead there (nodes that it does not reach), the address is
tried after all, and the sentence says both.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rebake.errors import PlatformError, Transient
from rebake.kubernetes.clusters import ClusterLink

_CONNECT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Door:
    """A pod, by its address `IP:PORT`."""

    link: ClusterLink
    namespace: str
    pod: str
    address: str

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])


@contextlib.contextmanager
def opened(doors: Sequence[Door | str]) -> Iterator[Sequence[str]]:
    """Addresses by which each is reached from here. A plain one is taken as it is. Raises: PlatformError."""
    with contextlib.ExitStack() as stack:
        yield [one if isinstance(one, str) else _open(one, stack) for one in doors]


def _open(door: Door, stack: contextlib.ExitStack) -> str:
    from rebake.kubernetes.forward import Forward

    sign = door.link.client.sign
    if sign.inside:
        return door.address
    try:
        forward = Forward(sign, door.namespace, door.pod, door.port)
    except Transient as error:
        if _answers(door.address):
            return door.address
        raise _unreachable(door, error) from error
    stack.callback(forward.close)
    return forward.address


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def _unreachable(door: Door, error: PlatformError) -> Transient:
    return Transient(
        "pod-unreachable",
        f"pod {door.pod} cannot be reached from here: not through the API server ({error.problem}), and not at "
        f"{door.address}",
        where=f"pods {door.namespace}/{door.pod}",
        remedy="let the API server reach the nodes' kubelets, or run the agent in the cluster: docs/server.md",
    )
