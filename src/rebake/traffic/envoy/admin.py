"""Envoy's admin interface over its Unix socket: what Envoy says of itself, parsed; its failures translated."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import urlencode

from rebake.errors import Transient
from rebake.traffic.envoy import names

T = TypeVar("T")

_LONGEST_LINE = 1 << 16
_COUNTED = (
    "upstream_rq_completed",
    "upstream_rq_5xx",
    "upstream_rq_retry_success",
    "upstream_rq_active",
    "upstream_rq_pending_active",
)


@dataclass(frozen=True, slots=True)
class ClusterNumbers:
    """Statistics of one cluster: `completed` and `failed` since Envoy counts, `active` requests now. A request failed
    also when only its second try was answered well."""

    completed: int = 0
    failed: int = 0
    active: int = 0


@dataclass(frozen=True, slots=True)
class Question(Generic[T]):
    """One GET, and how its JSON answer is read."""

    target: str
    parse: Callable[[Mapping[str, Any]], T]


def route_configuration(key: str) -> Question[Mapping[str, Any] | None]:
    """The route configuration Envoy has loaded under this name, None when it has none."""

    def parse(found: Mapping[str, Any]) -> Mapping[str, Any] | None:
        loaded = (c["route_config"] for c in found.get("configs", ()))
        return next((config for config in loaded if config.get("name") == key), None)

    return Question(_target("/config_dump", resource="dynamic_route_configs", name_regex=f"^{re.escape(key)}$"), parse)


def hosts(pattern: str) -> Question[dict[str, dict[str, bool]]]:
    """By cluster that Envoy serves (not only warms), whether each address passes Envoy's health check."""

    def parse(found: Mapping[str, Any]) -> dict[str, dict[str, bool]]:
        clusters = found.get("cluster_statuses", ())
        return {str(c["name"]): dict(_host(h) for h in c.get("host_statuses", ())) for c in clusters}

    return Question(_target("/clusters", format="json", filter=pattern), parse)


def numbers(clusters: Iterable[str]) -> Question[dict[str, ClusterNumbers]]:
    """Statistics by cluster; one that never met a request is all zeros."""
    wanted = {names.stat_name(c): c for c in clusters}

    def parse(found: Mapping[str, Any]) -> dict[str, ClusterNumbers]:
        values = {str(s["name"]): int(s["value"]) for s in found.get("stats", ()) if "name" in s}
        return {cluster: _numbers(values, stat) for stat, cluster in wanted.items()}

    pattern = rf"^cluster\.({any_of(wanted)})\.({'|'.join(_COUNTED)})$"
    return Question(_target("/stats", format="json", filter=pattern), parse)


def open_listeners() -> Question[frozenset[str]]:
    """Names of the listeners that are open."""
    return Question(
        _target("/listeners", format="json"),
        lambda found: frozenset(str(entry["name"]) for entry in found.get("listener_statuses", ())),
    )


def listener_error(name: str) -> Question[str | None]:
    """Why Envoy refused the latest version of this listener, None when it did not."""

    def parse(found: Mapping[str, Any]) -> str | None:
        for entry in found.get("configs", ()):
            if entry.get("name") == name and "error_state" in entry:
                return str(entry["error_state"].get("details", "rejected"))
        return None

    return Question(_target("/config_dump", resource="dynamic_listeners", name_regex=f"^{re.escape(name)}$"), parse)


def any_of(words: Iterable[str]) -> str:
    return "|".join(re.escape(word) for word in sorted(words))


class Session:
    """Several questions over one connection, hence to one and the same Envoy process."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._answers = _Answers(connection)

    def ask(self, question: Question[T]) -> T:
        return self._read(question, self._request("GET", question.target))

    def ask_together(self, *questions: Question[Any]) -> list[Any]:
        """Send ahead of reading, so that Envoy wakes less often. Returns: the answers in order.

        Two at a time: Envoy closes a connection on which a third request waits.
        """
        found: list[Any] = []
        for pair in (questions[at : at + 2] for at in range(0, len(questions), 2)):
            self._socket.sendall(b"".join(_head("GET", q.target) for q in pair))
            found += [self._read(q, self._answers.next()) for q in pair]
        return found

    def is_live(self) -> bool:
        """Started, with every document loaded."""
        status, body = self._request("GET", "/ready")
        return status == 200 and body.strip() == b"LIVE"

    def collect(self) -> None:
        """Have Envoy take over what the one it replaces counted since the last time (`stats_flush_on_admin`)."""
        self._request("GET", _target("/stats", filter="^$"))

    def reopen_records(self) -> None:
        """Open the files of records anew: a renamed one is left alone from then on."""
        self._request("POST", "/reopen_logs")

    def drain(self) -> None:
        """Close the listeners, let the connections finish."""
        self._request("POST", "/drain_listeners?graceful&skip_exit")

    def _request(self, method: str, target: str) -> tuple[int, bytes]:
        self._socket.sendall(_head(method, target))
        return self._answers.next()

    @staticmethod
    def _read(question: Question[T], answer: tuple[int, bytes]) -> T:
        status, body = answer
        if status not in (200, 404):  # 404: Envoy has nothing of that name
            raise ValueError(f"GET {question.target} answered {status}: {body[:200].decode(errors='replace')}")
        document = json.loads(body or b"{}") if status == 200 else {}
        return question.parse(document if isinstance(document, dict) else {})


class _Answers:
    """Reads one HTTP answer after the other from one connection.

    `http.client` builds an e-mail message for each, which is most of what a look at the edge costs; and it is Envoy
    alone that answers here. Source: RFC 9112, sections 4, 6.3 and 7.1.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._file = connection.makefile("rb")

    def next(self) -> tuple[int, bytes]:
        """Status and body. Raises: OSError when the connection ends, ValueError for what is not HTTP."""
        version, status, *_ = self._line().split(None, 2)
        if not version.startswith(b"HTTP/1."):
            raise ValueError(f"not HTTP: {version[:40]!r}")
        headers = self._headers()
        if headers.get(b"transfer-encoding", b"").lower() == b"chunked":
            return int(status), b"".join(self._chunks())
        return int(status), self._exactly(int(headers.get(b"content-length", b"0")))

    def _headers(self) -> dict[bytes, bytes]:
        found = {}
        while line := self._line():
            name, _, value = line.partition(b":")
            found[name.lower()] = value.strip()
        return found

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self._line().partition(b";")[0], 16):
            yield self._exactly(size)
            self._line()
        self._headers()  # trailers

    def _line(self) -> bytes:
        line = self._file.readline(_LONGEST_LINE)
        if not line.endswith(b"\n"):
            raise ConnectionResetError("the answer ended in the middle of a line")
        return line.rstrip(b"\r\n")

    def _exactly(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) != size:
            raise ConnectionResetError(f"the answer ended after {len(data)} of {size} bytes")
        return data


class AdminClient:
    """Opens sessions with the Envoy behind one socket."""

    def __init__(self, path: Path, timeout_seconds: float = 2.0) -> None:
        self._path = path
        self._timeout = timeout_seconds

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Raises: Transient `edge-unreachable` when Envoy does not answer, or not as Envoy does."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(self._timeout)
        try:
            connection.connect(str(self._path))
            yield Session(connection)
        except (OSError, ValueError, KeyError) as error:
            raise Transient(
                "edge-unreachable",
                f"expected an answer of Envoy's admin interface, found {type(error).__name__}: {error}",
                where=str(self._path),
                remedy="it is restarted within a second; if it stays away, read envoy.log in the edge folder",
                retry_after_seconds=0.2,
            ) from error
        finally:
            connection.close()

    def is_live(self) -> bool:
        """Whether Envoy is up, False also when nobody answers."""
        try:
            with self.session() as session:
                return session.is_live()
        except Transient:
            return False


@lru_cache(maxsize=4096)
def _target(path: str, **query: str) -> str:
    return f"{path}?{urlencode(query)}"


def _head(method: str, target: str) -> bytes:
    return f"{method} {target} HTTP/1.1\r\nhost: envoy\r\ncontent-length: 0\r\n\r\n".encode()


def _host(status: Mapping[str, Any]) -> tuple[str, bool]:
    address = status["address"]
    health = status.get("health_status", {})
    sound = health.get("eds_health_status", "HEALTHY") == "HEALTHY" and not any(
        value is True for key, value in health.items() if key.startswith(("failed_", "pending_"))
    )
    inside = address.get("envoy_internal_address")
    if inside is not None:
        return str(inside["server_listener_name"]), sound
    place = address["socket_address"]
    return join_address(str(place["address"]), int(place["port_value"])), sound


def join_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _numbers(values: Mapping[str, int], stat: str) -> ClusterNumbers:
    completed, failed, again, active, pending = (values.get(f"cluster.{stat}.{name}", 0) for name in _COUNTED)
    return ClusterNumbers(completed, failed + again, active + pending)
