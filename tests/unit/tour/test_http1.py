from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebake.tour.http1 import AnswerReader, Malformed

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Release: r1\r\n\r\nhello"
CHUNKED = (
    b"HTTP/1.1 500 Oh\r\ntransfer-encoding: Chunked\r\n\r\n5;x=y\r\nhello\r\n1a\r\n"
    + b"x" * 26
    + b"\r\n0\r\nT: t\r\n\r\n"
)
INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + PLAIN
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"


@pytest.mark.parametrize(("answer", "status"), [(PLAIN, 200), (CHUNKED, 500), (INTERIM, 200), (EMPTY, 204)])
@given(cuts=st.lists(st.integers(0, 200), max_size=12))
def test_an_answer_is_whole_exactly_at_its_last_byte_however_it_is_cut(
    answer: bytes, status: int, cuts: list[int]
) -> None:
    reader = AnswerReader()
    places = sorted({0, len(answer) - 1, *(cut % len(answer) for cut in cuts)})
    for begin, end in pairwise(places):
        assert not reader.feed(answer[begin:end])
    assert reader.status in (status, None)
    assert reader.feed(answer[-1:])
    assert (reader.status, reader.keep_alive) == (status, True)


@pytest.mark.parametrize(
    ("head", "keep_alive"),
    [
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n", False),
        (b"HTTP/1.1 200 OK\r\nConnection: Close, X\r\n", False),
        (b"HTTP/1.1 200 OK\r\n", True),
        (b"HTTP/1.0 200 OK\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n", True),
    ],
)
def test_whether_the_connection_goes_on(head: bytes, keep_alive: bool) -> None:
    reader = AnswerReader()
    assert reader.feed(head + b"Content-Length: 0\r\n\r\n")
    assert reader.keep_alive is keep_alive


def test_a_body_without_a_length_ends_with_the_connection() -> None:
    reader = AnswerReader()
    assert not reader.feed(b"HTTP/1.1 200 OK\r\n\r\nsome")
    assert not reader.feed(b" more")
    assert reader.end()


def test_a_body_with_a_length_does_not_end_with_the_connection() -> None:
    reader = AnswerReader()
    reader.feed(PLAIN[:-1])
    assert not reader.end()


def test_an_answer_to_head_has_a_length_and_no_body() -> None:
    assert AnswerReader(bodiless=True).feed(PLAIN.partition(b"hello")[0])


def test_more_than_one_answer_ends_the_connection() -> None:
    reader = AnswerReader()
    assert reader.feed(PLAIN + b"HTTP")
    assert not reader.keep_alive


def test_the_tag_is_the_value_of_the_header_asked_for() -> None:
    reader = AnswerReader(b"X-RELEASE")
    reader.feed(PLAIN)
    assert reader.tag == "r1"


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxyz\r\n",
        b"x" * 70_000,
    ],
)
def test_what_is_no_answer_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        AnswerReader().feed(data)
