"""The watch over instances, against servers that behave badly on purpose."""

from __future__ import annotations

import os
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial

import pytest

from rebake.core.clock import boot_id
from rebake.platforms.local import processes
from rebake.platforms.local.records import Identity
from rebake.platforms.watcher import Watched, Watcher
from rebake.release.manifest import Health
from rebake.testing.conformance.platform import eventually

Behaviour = Callable[[socket.socket], None]


def answer(text: bytes) -> Behaviour:
    def behave(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(text)

    return behave


class Server:
    """Accepts one connection at a time and does to it what it is told."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.accepted = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.accepted += 1
                with closing(connection), suppress(OSError):
                    self.behaviour(connection)

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # or the accepting thread keeps it open
        self._listener.close()


class Watch:
    """A watcher over this test's own process, with what it told."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.first_health: list[str] = []
        self.refusal: str | None = None
        self.changes: queue.Queue[tuple[str, str]] = queue.Queue()
        self.watcher = Watcher(
            lambda w: self.ended.append(w.id),
            self.passed,
            lambda service, environment: self.changes.put((service, environment)),
            lambda _instance: 0,
        )

    def passed(self, watched: Watched) -> str | None:
        self.first_health.append(watched.id)
        return self.refusal

    def begin(self, port: int, contract: Health, pid: int | None = None) -> Watched:
        identity = processes.identify(pid or os.getpid(), port)
        assert identity is not None
        watched = Watched("i1", "shop", "production", port, contract)
        watched.open_end = partial(processes.open_pidfd, identity)
        self.watcher.watch(watched)
        return watched


@pytest.fixture
def watch() -> Iterator[Watch]:
    watch = Watch()
    yield watch
    watch.watcher.close()


def until(watched: Watched, detail: str | None, healthy: bool | None) -> None:
    eventually(
        lambda: watched.condition.healthy is healthy and watched.condition.detail == detail,
        lambda: str(watched.condition),
    )


CONTRACT = Health(interval_ms=50, timeout_ms=300, unhealthy_after=2)


def never(connection: socket.socket) -> None:
    connection.recv(4096)
    connection.recv(4096)  # until the caller gives up


def drop(connection: socket.socket) -> None:
    connection.recv(4096)


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


SICK = {
    "hangs": (never, "GET /healthz: no answer within 0.3s"),
    "drops": (drop, "GET /healthz was closed without an answer"),
    "resets": (reset, "connection reset"),
    "is not HTTP": (answer(b"220 mail ready\r\n"), "GET /healthz answered something that is not HTTP"),
    "answers 500": (answer(b"HTTP/1.1 500 X\r\n\r\n"), "GET /healthz answered 500"),
}


@pytest.mark.parametrize("server", SICK)
def test_a_server_that(server: str, watch: Watch) -> None:
    behaviour, detail = SICK[server]
    with closing(Server(behaviour)) as sick:
        until(watch.begin(sick.port, CONTRACT), detail, False)
    assert watch.first_health == []


def in_pieces(connection: socket.socket) -> None:
    connection.recv(4096)
    for byte in b"HTTP/1.1 200 OK\r\n\r\nok":
        connection.sendall(bytes([byte]))


WELL = {
    "answers at once": answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    "answers in pieces": in_pieces,
    "answers much": answer(b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 300_000),
    "redirects": answer(b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n"),
}


@pytest.mark.parametrize("server", WELL)
def test_a_healthy_server_that(server: str, watch: Watch) -> None:
    with closing(Server(WELL[server])) as well:
        watched = watch.begin(well.port, CONTRACT)
        until(watched, None, True)
        eventually(lambda: well.accepted > 2, lambda: f"{well.accepted} probes")
        assert watched.condition.healthy is True
    assert watch.first_health == ["i1"]


UNHURRIED = Health(interval_ms=250, timeout_ms=300, unhealthy_after=2)
"""Long enough that the answers of a healthy instance are picked up a moment later, together with others'."""


@pytest.mark.parametrize("server", SICK)
def test_a_healthy_instance_that_is_not_hurried_and_then(server: str, watch: Watch) -> None:
    behaviour, detail = SICK[server]
    with closing(Server(WELL["answers at once"])) as turning:
        watched = watch.begin(turning.port, UNHURRIED)
        until(watched, None, True)
        turning.behaviour = behaviour
        until(watched, detail, False)


@pytest.mark.parametrize("server", WELL)
def test_an_instance_that_is_not_hurried_and(server: str, watch: Watch) -> None:
    with closing(Server(WELL[server])) as well:
        watched = watch.begin(well.port, UNHURRIED)
        until(watched, None, True)
        eventually(lambda: watched.condition.streak > 3, lambda: str(watched.condition))
        assert watched.condition.healthy is True


def test_an_answer_that_comes_late_counts_as_well(watch: Watch) -> None:
    late = threading.Event()

    def behave(connection: socket.socket) -> None:
        connection.recv(4096)
        late.wait(0.1)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with closing(Server(behave)) as slow:
        watched = watch.begin(slow.port, UNHURRIED)
        until(watched, None, True)
        eventually(lambda: watched.condition.streak > 2, lambda: str(watched.condition))
        assert watched.condition.healthy is True


def test_a_first_pass_that_does_not_count_is_tried_again(watch: Watch) -> None:
    watch.refusal = "it was somebody else"
    with closing(Server(answer(b"HTTP/1.1 200 OK\r\n\r\n"))) as server:
        watched = watch.begin(server.port, CONTRACT)
        until(watched, "it was somebody else", False)
        assert not watched.condition.was_healthy
        watch.refusal = None
        until(watched, None, True)


def test_a_port_nobody_listens_on_is_refused(watch: Watch) -> None:
    with closing(Server(drop)) as gone:
        pass
    until(watch.begin(gone.port, CONTRACT), "connection refused", False)


def test_a_change_of_health_is_told_at_once_and_a_repetition_is_not(watch: Watch) -> None:
    with closing(Server(answer(b"HTTP/1.1 200 OK\r\n\r\n"))) as server:
        watched = watch.begin(server.port, CONTRACT)
        assert watch.changes.get(timeout=10) == ("shop", "production")
        eventually(lambda: server.accepted > 3, lambda: f"{server.accepted} probes")
        assert watch.changes.empty()
        server.behaviour = answer(b"HTTP/1.1 500 X\r\n\r\n")
        assert watch.changes.get(timeout=10) == ("shop", "production")
        assert watched.condition.healthy is False


def test_a_start_is_probed_faster_than_the_interval(watch: Watch) -> None:
    with closing(Server(answer(b"HTTP/1.1 500 X\r\n\r\n"))) as server:
        watched = watch.begin(server.port, Health(interval_ms=3_600_000))
        eventually(lambda: server.accepted > 3, lambda: f"{server.accepted} probes")
        server.behaviour = answer(b"HTTP/1.1 200 OK\r\n\r\n")
        until(watched, None, True)


def test_the_end_of_a_process_is_told_once(watch: Watch) -> None:
    child = os.posix_spawn("/bin/sh", ["sh", "-c", "read line; exit 4"], {}, file_actions=[])
    watched = watch.begin(1, CONTRACT, child)
    os.kill(child, 9)
    eventually(lambda: watch.ended == ["i1"], lambda: str(watch.ended))
    eventually(lambda: watched.end is None, lambda: "the descriptor is still open")
    os.waitpid(child, 0)


def test_a_process_that_is_gone_already_is_told_too(watch: Watch) -> None:
    gone = partial(processes.open_pidfd, Identity(os.getpid(), 1, boot_id()))
    watch.watcher.watch(Watched("i2", "shop", "production", 1, CONTRACT, open_end=gone))
    eventually(lambda: watch.ended == ["i2"], lambda: str(watch.ended))


def test_what_is_forgotten_is_told_no_more(watch: Watch) -> None:
    with closing(Server(answer(b"HTTP/1.1 500 X\r\n\r\n"))) as server:
        until(watch.begin(server.port, CONTRACT), "GET /healthz answered 500", False)
        watch.watcher.forget("i1")
        server.behaviour = answer(b"HTTP/1.1 200 OK\r\n\r\n")
        done = threading.Event()
        watch.watcher.after(0.2, done.set)
        assert done.wait(10)
        assert watch.first_health == []
        assert watch.watcher.seen("i1") is None


def test_one_listener_that_fails_does_not_stop_the_watch(watch: Watch) -> None:
    def fail() -> None:
        raise ValueError("a defect")

    done = threading.Event()
    watch.watcher.after(0, fail)
    watch.watcher.after(0.01, done.set)
    assert done.wait(10)


def test_a_watch_that_ended_by_itself_just_before_it_is_closed_is_closed_all_the_same(watch: Watch) -> None:
    watch.watcher._closed = True  # what `close` does first
    watch.watcher.after(0, lambda: None)
    watch.watcher._thread.join(10)
    assert not watch.watcher._thread.is_alive()
    watch.watcher._closed = False
    watch.watcher.close()


def test_closing_twice_is_the_same_as_once(watch: Watch) -> None:
    watch.watcher.close()
    watch.watcher.close()
    watch.watcher.after(0, lambda: None)
