"""What Envoy says of itself, read without Envoy; and whatever else may sit behind its socket."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from rebake.errors import Transient
from rebake.traffic.envoy.admin import (
    AdminClient,
    ClusterNumbers,
    hosts,
    listener_error,
    numbers,
    open_listeners,
    route_configuration,
)


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


@contextmanager
def envoy_that_says(path: Path, answers: dict[str, Any], status: int = 200) -> Iterator[list[str]]:
    """A server on a Unix socket with one canned answer per path. Yields: the queries it got."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked.append(self.path)
            found = answers.get(urlsplit(self.path).path, {})
            body = found if isinstance(found, bytes) else json.dumps(found).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def address_string(self) -> str:
            return "unix"

        def log_message(self, *_: object) -> None:
            return None

    with _Server(str(path), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield asked
        finally:
            server.shutdown()
            thread.join()


def host(port: int, **health: Any) -> dict[str, Any]:
    return {
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "health_status": {"eds_health_status": "HEALTHY", **health},
    }


def test_hosts_tell_the_sound_from_the_unsound(tmp_path: Path) -> None:
    said = {
        "cluster_statuses": [
            {"name": "a", "host_statuses": [host(1), host(2, failed_active_health_check=True)]},
            {"name": "b"},
        ]
    }
    with (
        envoy_that_says(tmp_path / "s", {"/clusters": said}) as asked,
        AdminClient(tmp_path / "s").session() as session,
    ):
        assert session.ask(hosts("^(a|b)$")) == {"a": {"127.0.0.1:1": True, "127.0.0.1:2": False}, "b": {}}
    assert parse_qs(urlsplit(asked[0]).query)["filter"] == ["^(a|b)$"]


def test_numbers_of_a_cluster_that_met_nobody_are_zero(tmp_path: Path) -> None:
    said = {
        "stats": [
            {"name": "cluster.x_1.upstream_rq_completed", "value": 7},
            {"name": "cluster.x_1.upstream_rq_5xx", "value": 2},
            {"name": "cluster.x_1.upstream_rq_active", "value": 1},
            {"name": "cluster.x_1.upstream_rq_pending_active", "value": 3},
            {"histograms": {}},
        ]
    }
    with envoy_that_says(tmp_path / "s", {"/stats": said}), AdminClient(tmp_path / "s").session() as session:
        assert session.ask(numbers(["x:1", "y"])) == {"x:1": ClusterNumbers(7, 2, 4), "y": ClusterNumbers()}


def test_a_refused_listener_says_why(tmp_path: Path) -> None:
    said = {"configs": [{"name": "l", "error_state": {"details": "cannot bind"}}, {"name": "m"}]}
    with envoy_that_says(tmp_path / "s", {"/config_dump": said}), AdminClient(tmp_path / "s").session() as session:
        assert session.ask(listener_error("l")) == "cannot bind"
        assert session.ask(listener_error("m")) is None


def test_nobody_behind_the_socket_is_unreachable(tmp_path: Path) -> None:
    client = AdminClient(tmp_path / "nobody")
    assert client.is_live() is False
    with pytest.raises(Transient) as caught, client.session() as session:
        session.ask(open_listeners())
    assert caught.value.code == "edge-unreachable"
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("answers", "status"),
    [
        ({"/listeners": b"<html>"}, 200),
        ({"/listeners": b"{}"}, 500),
        ({"/listeners": {"listener_statuses": [{}]}}, 200),
    ],
    ids=["no-json", "error", "no-name"],
)
def test_an_answer_that_is_none_of_envoys_is_unreachable(tmp_path: Path, answers: dict[str, Any], status: int) -> None:
    client = AdminClient(tmp_path / "s")
    said = envoy_that_says(tmp_path / "s", answers, status)
    with said, pytest.raises(Transient) as caught, client.session() as session:
        session.ask(open_listeners())
    assert caught.value.code == "edge-unreachable"


@pytest.mark.parametrize(("body", "live"), [(b"LIVE\n", True), (b"PRE_INITIALIZING\n", False)])
def test_envoy_is_live_only_when_it_says_so(tmp_path: Path, body: bytes, live: bool) -> None:
    with envoy_that_says(tmp_path / "s", {"/ready": body}):
        assert AdminClient(tmp_path / "s").is_live() is live


def test_questions_asked_together_are_answered_each_by_its_own(tmp_path: Path) -> None:
    said = {
        "/listeners": {"listener_statuses": [{"name": "l"}]},
        "/config_dump": {"configs": [{"route_config": {"name": "k", "v": 1}}]},
        "/clusters": {},
    }
    with envoy_that_says(tmp_path / "s", said), AdminClient(tmp_path / "s").session() as session:
        found = session.ask_together(route_configuration("k"), hosts("^x$"), open_listeners(), route_configuration("z"))
        assert found == [{"name": "k", "v": 1}, {}, frozenset({"l"}), None]
        assert session.ask(open_listeners()) == {"l"}
