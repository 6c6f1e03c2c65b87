"""Addresses are looked at before Envoy shares them."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from rebake.errors import Permanent, PlatformError, Transient
from rebake.traffic.envoy import listening


@pytest.fixture
def stranger() -> socket.socket:
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.bind(("127.0.0.1", 0))
    found.listen()
    return found


def address(of: socket.socket) -> str:
    return f"127.0.0.1:{of.getsockname()[1]}"


def test_an_address_whose_holder_would_share_is_still_taken(stranger: socket.socket) -> None:
    with stranger, pytest.raises(Permanent) as caught:
        listening.check_free(address(stranger))
    assert caught.value.code == "address-in-use"
    assert f"(pid {os.getpid()})" in caught.value.problem


def test_an_address_that_was_just_closed_is_free(stranger: socket.socket) -> None:
    where = address(stranger)
    with stranger, socket.create_connection(stranger.getsockname()) as caller:
        accepted, _ = stranger.accept()
        accepted.close()  # closes first: lingers in TIME_WAIT
        caller.recv(1)
    listening.check_free(where)


def test_connections_that_outlive_their_process_are_told_from_a_holder() -> None:
    with socket.socket() as ended:
        ended.bind(("127.0.0.1", 0))
        ended.listen()
        where = address(ended)
        with socket.create_connection(ended.getsockname()) as caller:
            accepted, _ = ended.accept()
            accepted.close()
            caller.recv(1)
    with pytest.raises(Transient) as caught:
        listening.check_free(where)
    assert caught.value.code == "address-lingering"


def test_all_interfaces_are_taken_when_one_is(stranger: socket.socket) -> None:
    with stranger, pytest.raises(Permanent):
        listening.check_free(address(stranger).replace("127.0.0.1", "0.0.0.0"))


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.EACCES, "address-not-permitted"),
        (errno.EPERM, "address-not-permitted"),
        (errno.EADDRNOTAVAIL, "address-unavailable"),
        (errno.EADDRINUSE, "address-lingering"),
    ],
)
def test_every_refusal_of_the_kernel_has_its_sentence(monkeypatch: pytest.MonkeyPatch, number: int, code: str) -> None:
    def bind(self: socket.socket, where: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(socket.socket, "bind", bind)
    with pytest.raises(PlatformError) as caught:
        listening.check_free("127.0.0.1:9")
    assert caught.value.code == code
    assert caught.value.remedy


def test_a_port_two_homes_open_at_once_is_opened_by_one_after_the_other(stranger: socket.socket) -> None:
    where = address(stranger)
    stranger.close()
    second = listening.reserved(where, wait_seconds=0.02)
    with listening.reserved(where), pytest.raises(Transient) as caught, second:
        pass
    assert caught.value.code == "address-contended"
    with listening.reserved(where, wait_seconds=0):
        pass


def test_nobody_holds_a_free_port(stranger: socket.socket) -> None:
    port = stranger.getsockname()[1]
    stranger.close()
    assert listening.holder_of(port) is None
