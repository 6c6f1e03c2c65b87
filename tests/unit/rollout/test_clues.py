"""What the last lines of a log say about the remedy."""

from __future__ import annotations

import pytest

from rebake.rollout.clues import clue


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("PermissionError: [Errno 13] Permission denied: '/somewhere/app/instance'", "$REBAKE_DATA"),
        ("OSError: [Errno 30] Read-only file system: 'db.sqlite3'", "$REBAKE_DATA"),
        ("sqlite3.OperationalError: attempt to write a readonly database", "$REBAKE_DATA"),
        ("Error: EACCES: permission denied, mkdir '/app/uploads'", "$REBAKE_DATA"),
        ("OSError: [Errno 98] Address already in use", "$PORT"),
        ("Error: listen EADDRINUSE: address already in use :::3000", "$PORT"),
        ("ModuleNotFoundError: No module named 'yaml'", "yaml"),
        ("Error: Cannot find module 'express'", "express"),
        ("django.core.exceptions.DisallowedHost: Invalid HTTP_HOST header: '127.0.0.1'", "ALLOWED_HOSTS"),
    ],
)
def test_a_likely_mistake_names_its_remedy(line: str, word: str) -> None:
    assert word in (clue(["Traceback (most recent call last):", line, ""]) or "")


def test_the_last_mistake_counts() -> None:
    assert "yaml" in (clue(["Address already in use", "No module named 'yaml'"]) or "")


def test_a_program_that_listens_elsewhere_is_told_where_to_listen() -> None:
    assert "$HOST:$PORT" in (clue(["Listening on :3000"], "not healthy within 30s: last: connection refused") or "")


def test_a_health_path_that_is_not_there_names_the_setting() -> None:
    told = clue(["GET /healthz 404"], "not healthy within 30s: last: GET /healthz answered 404") or ""
    assert "run.health.path" in told
    assert "/healthz" in told


def test_a_folder_that_must_be_written_to_is_named_where_the_platform_names_it() -> None:
    assert "docker.writable" in (clue(["mkdir: '/run/app': Read-only file system"], platform="docker") or "")


def test_an_unknown_mistake_suggests_nothing() -> None:
    assert clue(["the moon is in the wrong house"], "exit 3") is None
