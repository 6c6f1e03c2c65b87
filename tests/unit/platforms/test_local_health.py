"""Health from probes: thresholds, sentences, answers."""

from __future__ import annotations

from functools import reduce

import pytest

from rebake.platforms.health import Condition, after_probe, is_whole, judge_answer, request_bytes, sentence
from rebake.release.manifest import Health

CONTRACT = Health(path="/ready", healthy_after=2, unhealthy_after=3, start_timeout_ms=30_000)


def after(probes: str, start: Condition | None = None, contract: Health = CONTRACT) -> Condition:
    """`.` passed, `x` failed."""
    failures = (None if probe == "." else "connection refused" for probe in probes)
    return reduce(lambda c, failure: after_probe(c, contract, failure), failures, start or Condition())


@pytest.mark.parametrize(
    ("probes", "healthy", "was_healthy"),
    [
        ("", None, False),
        ("x", False, False),
        (".", False, False),
        ("..", True, True),
        (".x.", False, False),
        ("xxxxx..", True, True),
        ("..xx", True, True),
        ("..xx.xx", True, True),
        ("..xxx", False, True),
        ("..xxx.", False, True),
        ("..xxx..", True, True),
        ("..xxx.x.", False, True),
    ],
)
def test_thresholds(probes: str, healthy: bool | None, was_healthy: bool) -> None:
    found = after(probes)
    assert (found.healthy, found.was_healthy) == (healthy, was_healthy)


def test_an_adopted_instance_is_not_judged_by_one_failure() -> None:
    adopted = Condition(was_healthy=True)
    assert after("x", adopted).healthy is None
    assert after("xxx", adopted).healthy is False
    assert after("x..", adopted).healthy is True


def test_a_start_that_takes_too_long_says_so_with_the_last_reason() -> None:
    failing = after("xx")
    assert sentence(failing, CONTRACT, 29.0) == "connection refused"
    assert sentence(failing, CONTRACT, 30.5) == "not healthy within 30s: last: connection refused"
    assert sentence(Condition(), CONTRACT, 31) == "not healthy within 30s: last: not probed yet"


def test_one_that_served_is_not_said_to_have_failed_its_start() -> None:
    assert sentence(after("..xxx"), CONTRACT, 1000) == "connection refused"
    assert sentence(after("..x"), CONTRACT, 1000) is None


@pytest.mark.parametrize(
    ("data", "ended", "expected"),
    [
        (b"", False, (False, "the answer is not HTTP")),
        (b"HTTP/1.1 20", False, (False, "the answer is not HTTP")),
        (b"HTTP/1.1 200 OK\r\n", False, (True, None)),
        (b"HTTP/1.0 204\r\n", False, (True, None)),
        (b"HTTP/1.1 399 X\r\n", False, (True, None)),
        (b"HTTP/1.1 400 Bad Request\r\n", False, (True, "GET /ready answered 400")),
        (b"HTTP/1.1 500 X\r\n", False, (True, "GET /ready answered 500")),
        (b"SSH-2.0-OpenSSH\r\n", False, (True, "GET /ready answered something that is not HTTP")),
        (b"HTTP/1.1\r\n", False, (True, "GET /ready answered something that is not HTTP")),
        (b"", True, (True, "GET /ready was closed without an answer")),
        (b"z" * 5000, False, (True, "the answer is not HTTP")),
    ],
)
def test_answers(data: bytes, ended: bool, expected: tuple[bool, str | None]) -> None:
    assert judge_answer(data, CONTRACT, ended=ended)[0] == expected[0]
    if expected[0]:
        assert judge_answer(data, CONTRACT, ended=ended) == expected


@pytest.mark.parametrize(
    ("data", "whole"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n", False),
        (b"HTTP/1.1 200 OK\r\n\r\nok", False),
    ],
)
def test_an_answer_is_whole_when_its_length_has_arrived(data: bytes, whole: bool) -> None:
    assert is_whole(data) is whole


def test_the_probe_is_one_plain_request() -> None:
    assert request_bytes(CONTRACT, "127.0.0.1", 8080) == (
        b"GET /ready HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: rebake-health\r\n"
        b"Accept: */*\r\nConnection: close\r\n\r\n"
    )
