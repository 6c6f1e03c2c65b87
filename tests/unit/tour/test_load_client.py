from __future__ import annotations

import json
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rebake.tour.client import Request, interleave
from rebake.tour.figures import Tally, quantiles_ms
from rebake.tour.load import Load, main

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Release: r1\r\n\r\nok"
Behaviour = Callable[[socket.socket, bytes, int], bool]
"""What the server does with a request, given its bytes and its number; true to go on with the connection."""


class Server:
    """A server that does to requests exactly what a test wants."""

    def __init__(self, behave: Behaviour) -> None:
        self._behave = behave
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0
        self.requests: list[bytes] = []
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(65536):
                    with self._lock:
                        number = len(self.requests)
                        self.requests.append(data)
                    if not self._behave(connection, data, number):
                        return
            except OSError:
                return

    def close(self) -> None:
        if self._listener.fileno() < 0:
            return
        self._listener.shutdown(socket.SHUT_RDWR)  # or the thread that accepts would keep it open
        self._listener.close()
        for connection in self._open:
            connection.close()


@pytest.fixture
def serve() -> Iterator[Callable[[Behaviour], Server]]:
    servers: list[Server] = []

    def start(behave: Behaviour) -> Server:
        servers.append(Server(behave))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def until(condition: Callable[[], Any], seconds: float = 20) -> None:
    """Poll a condition; fails when it does not come true in time."""
    pause, deadline = threading.Event(), time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        pause.wait(0.01)


def answer(data: bytes) -> Behaviour:
    def behave(connection: socket.socket, _request: bytes, _number: int) -> bool:
        connection.sendall(data)
        return True

    return behave


def test_a_steady_load_is_answered_and_counted(serve: Callable[[Behaviour], Server]) -> None:
    server = serve(answer(OK))
    with Load(server.url, 400, connections=4) as load:
        until(lambda: load.report().answered >= 100)
    report = load.report()
    assert report.sent == report.answered == len(server.requests)
    assert (report.lost, report.in_flight, report.statuses) == (0, 0, {"2xx": report.sent})
    assert server.connections <= 4
    assert sum(bucket.ok for bucket in report.timeline) == report.sent
    assert 0 < report.latency_ms["p50"] <= report.latency_ms["p99"] <= report.latency_ms["max"]


def test_the_rate_is_the_one_asked_for(serve: Callable[[Behaviour], Server]) -> None:
    server = serve(answer(OK))
    with Load(server.url, 250) as load:
        until(lambda: load.report().sent >= 100)
    report = load.report()
    assert report.sent == pytest.approx(250 * report.seconds, abs=2 + report.stalled_ms / 4)


def test_answers_are_counted_by_class_and_errors_are_those_of_the_judge(
    serve: Callable[[Behaviour], Server],
) -> None:
    def every_fourth_fails(connection: socket.socket, _: bytes, number: int) -> bool:
        status = {0: b"500 Oh", 1: b"404 No"}.get(number % 4, b"200 OK")
        connection.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")
        return True

    server = serve(every_fourth_fails)
    with Load(server.url, 400) as load:
        until(lambda: load.report().answered >= 80)
    report = load.report()
    count = report.answered
    assert report.errors == report.statuses["5xx"] == (count + 3) // 4
    assert report.statuses["4xx"] == (count + 2) // 4
    assert sum(bucket.errors for bucket in report.timeline) == report.statuses["5xx"] + report.statuses["4xx"]


def test_a_refused_connection_is_a_lost_request() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with Load(f"http://127.0.0.1:{port}", 200) as load:
        until(lambda: load.report().lost >= 10)
    report = load.report()
    assert report.reasons == {"connection refused": report.sent}
    assert report.losses[0].request == "GET /"
    assert report.started <= report.losses[0].at <= time.time()


def test_an_idle_connection_that_the_server_closed_loses_nothing(serve: Callable[[Behaviour], Server]) -> None:
    def answer_then_close(connection: socket.socket, _request: bytes, _number: int) -> bool:
        connection.sendall(OK)  # without saying that it will close
        return False

    server = serve(answer_then_close)
    with Load(server.url, 50) as load:
        until(lambda: load.report().answered >= 20)
    report = load.report()
    assert report.lost == 0
    assert server.connections == report.answered


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "closed before an answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", "incomplete body"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "incomplete body"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "closed before an answer"),
    ],
)
def test_a_connection_closed_before_the_end_of_the_answer_is_a_loss_and_not_tried_again(
    serve: Callable[[Behaviour], Server], data: bytes, reason: str
) -> None:
    def cut(connection: socket.socket, _request: bytes, number: int) -> bool:
        connection.sendall(OK if number % 2 else data)
        return bool(number % 2)

    server = serve(cut)
    with Load(server.url, 200) as load:
        until(lambda: load.report().lost >= 10)
    report = load.report()
    assert set(report.reasons) == {reason}
    assert len(server.requests) == report.sent == report.answered + report.lost


def test_a_reset_connection_is_a_loss(serve: Callable[[Behaviour], Server]) -> None:
    def reset(connection: socket.socket, _request: bytes, _number: int) -> bool:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False

    server = serve(reset)
    with Load(server.url, 100) as load:
        until(lambda: load.report().lost >= 5)
    assert set(load.report().reasons) == {"connection reset"}


def test_an_answer_that_is_no_http_is_a_loss(serve: Callable[[Behaviour], Server]) -> None:
    server = serve(answer(b"220 smtp.example.com ESMTP\r\n\r\n"))
    with Load(server.url, 100) as load:
        until(lambda: load.report().lost >= 5)
    assert all(reason.startswith("malformed answer") for reason in load.report().reasons)


def test_a_server_that_never_answers_loses_every_request_in_time(serve: Callable[[Behaviour], Server]) -> None:
    server = serve(lambda _c, _r, _n: True)
    with Load(server.url, 100, connections=2, timeout_seconds=0.2) as load:
        until(lambda: load.report().lost >= 20)
    report = load.report()
    assert {"timeout", "timeout waiting for a free connection"} <= set(report.reasons)
    assert all(reason.startswith("timeout") for reason in report.reasons)
    assert report.sent == report.lost


def test_a_stalled_service_cannot_hide_its_stall(serve: Callable[[Behaviour], Server]) -> None:
    go_on = threading.Event()

    def stall_once(connection: socket.socket, _request: bytes, _number: int) -> bool:
        assert go_on.wait(20)
        connection.sendall(OK)
        return True

    server = serve(stall_once)
    with Load(server.url, 200, connections=2) as load:
        until(lambda: load.report().sent >= 60)  # although two connections only are waiting for an answer
        assert load.report().answered == 0
        go_on.set()
        until(lambda: load.report().answered >= 60)
    report = load.report()
    assert report.lost == 0
    assert report.latency_ms["max"] >= 290


def test_the_mix_is_sent_by_weight_with_bodies_of_their_own(serve: Callable[[Behaviour], Server]) -> None:
    server = serve(answer(OK))
    mix = [Request("/notes", weight=3), Request("/notes", "POST", b'{"text":"note {n}"}')]
    with Load(server.url, 400, mix, connections=1, headers={"X-Test": "yes"}) as load:
        until(lambda: load.report().answered >= 40)
    posts = [data for data in server.requests if data.startswith(b"POST")]
    assert len(posts) == pytest.approx(len(server.requests) / 4, abs=1)
    heads = [post.partition(b"\r\n\r\n") for post in posts]
    assert all(b"X-Test: yes" in head and b"Host: 127.0.0.1:" in head for head, _, _ in heads)
    bodies = [json.loads(body) for _, _, body in heads]
    assert len({body["text"] for body in bodies}) == len(bodies)
    assert all(f"Content-Length: {len(body)}".encode() in head for head, _, body in heads)


def test_answers_are_counted_by_the_header_asked_for(serve: Callable[[Behaviour], Server]) -> None:
    def two_releases(connection: socket.socket, _request: bytes, number: int) -> bool:
        connection.sendall(OK if number % 2 else OK.replace(b"200 OK", b"503 No").replace(b"r1", b"r2"))
        return True

    server = serve(two_releases)
    with Load(server.url, 400, connections=1, tag_header="x-release") as load:
        until(lambda: load.report().answered >= 40)
    tags = load.report().tags
    assert set(tags) == {"r1", "r2"}
    assert tags["r1"].answered + tags["r2"].answered == load.report().answered
    assert (tags["r1"].errors, tags["r2"].errors) == (0, tags["r2"].answered)
    assert tags["r2"].first_at < tags["r1"].first_at < tags["r1"].last_at <= time.time()


def test_requests_under_way_at_the_stop_are_waited_for(serve: Callable[[Behaviour], Server]) -> None:
    go_on = threading.Event()

    def hold(connection: socket.socket, _request: bytes, _number: int) -> bool:
        assert go_on.wait(20)
        connection.sendall(OK)
        return True

    server = serve(hold)
    load = Load(server.url, 100).start()
    until(lambda: load.report().in_flight >= 3)
    stopping = threading.Thread(target=load.stop)
    stopping.start()
    go_on.set()
    stopping.join(20)
    report = load.report()
    assert (report.lost, report.in_flight) == (0, 0)
    assert report.answered >= 3


@pytest.mark.parametrize("url", ["https://127.0.0.1", "127.0.0.1:80", "http://", ""])
def test_a_url_that_is_not_plain_http_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="expected a URL"):
        Load(url)


def test_a_load_that_was_not_started_has_no_figures() -> None:
    with pytest.raises(RuntimeError, match="not started"):
        Load("http://127.0.0.1:1").report()


def test_a_mix_is_spread_evenly() -> None:
    a, b = Request("/a", weight=3), Request("/b", weight=1)
    assert [request.path for request in interleave([a, b])] == ["/a", "/a", "/b", "/a"]


def test_quantiles_are_values_that_occurred() -> None:
    assert quantiles_ms([n / 1000 for n in range(1, 101)]) == pytest.approx(
        {"p50": 50, "p90": 90, "p99": 99, "max": 100, "mean": 50.5}
    )
    assert quantiles_ms([]) == {}


def test_the_timeline_says_when_it_happened() -> None:
    tally = Tally(started=10.0, epoch=1000.0)
    tally.sent = 3
    tally.answer(10.05, 10.0, 200, "")
    tally.answer(10.31, 10.3, 502, "")
    tally.loss(10.38, "GET /", "timeout")
    report = tally.report(11.0)
    assert report.to_json()["timeline"] == [[1, 0, 0], [0, 0, 0], [0, 0, 0], [0, 1, 1]]
    assert (report.started, report.seconds, report.losses[0].at) == (1010.0, 1.0, 1010.38)
    assert report.sentence().startswith("3 sent, 2 answered, 1 failed, 1 lost (1 timeout), p50 ")


def test_as_a_program_it_prints_one_object_and_fails_if_something_was_lost(
    serve: Callable[[Behaviour], Server],
) -> None:
    server = serve(answer(OK))
    command = [sys.executable, "-m", "rebake.tour.load", server.url, "--rate", "100", "--seconds", "0.3", "--json"]
    done = subprocess.run([*command, "--get", "/a"], capture_output=True, text=True, timeout=30, check=False)
    report = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert report["sent"] == report["answered"] == len(server.requests) > 10
    server.close()
    assert subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 1


@pytest.mark.parametrize("end", ["SIGTERM", "input"])
def test_as_a_program_it_runs_until_it_is_told_to_stop(serve: Callable[[Behaviour], Server], end: str) -> None:
    server = serve(answer(OK))
    command = [sys.executable, "-m", "rebake.tour.load", server.url, "--json", "--while-stdin"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        until(lambda: len(server.requests) >= 5)
        if end == "SIGTERM":
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        output, _ = process.communicate(timeout=20)
    assert json.loads(output)["lost"] == 0


def test_the_command_line_refuses_what_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["http://127.0.0.1:1", "--fast"])
    assert ended.value.code == 2
    assert "--fast" in capsys.readouterr().err
