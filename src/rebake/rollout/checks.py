"""Run one check against the candidate, before any user meets it. Part of the shell: it talks to instances and starts
processes."""

from __future__ import annotations

import http.client
import os
import threading
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from rebake.core.programs import run_program
from rebake.rollout.plan import Check, CommandCheck, HttpCheck
from rebake.rollout.world import Job

_BODY_LIMIT = 1 << 20


def run_check(check: Check, urls: Sequence[str], cancelled: threading.Event) -> Job:
    """Run the check to its end.

    Args:
        urls: base URL of every candidate instance; none for a fleet without a route, which no check reaches.
        cancelled: set when the result is not wanted any more; a running command is then ended.
    Returns: a job `done` or `failed`; a failing check is a value, not an exception.
    """
    if isinstance(check, HttpCheck):
        return _http_on_every_instance(check, urls)
    return _command(check, urls, cancelled, os.environ)


def _http_on_every_instance(check: HttpCheck, urls: Sequence[str]) -> Job:
    for url in urls:
        problem, evidence = _http(check, url)
        if problem is not None:
            return Job("failed", problem, evidence)
    return Job("done", f"{check.method} {check.path} on {len(urls)} instances")


def _http(check: HttpCheck, url: str) -> tuple[str | None, tuple[str, ...]]:
    parts = urlsplit(url)
    asked = f"{check.method} {check.path}"
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=check.timeout_ms / 1000)
    try:
        connection.request(check.method, check.path, headers={"User-Agent": "rebake-check", "Connection": "close"})
        answer = connection.getresponse()
        body = answer.read(_BODY_LIMIT).decode("utf-8", "replace")
    except TimeoutError:
        return f"{asked} on {parts.netloc}: no answer within {check.timeout_ms / 1000:g}s", ()
    except (OSError, http.client.HTTPException) as error:
        return f"{asked} on {parts.netloc}: {error}", ()
    finally:
        connection.close()
    head = tuple(body.splitlines()[:10])
    if answer.status != check.expect_status:
        return f"{asked} on {parts.netloc}: expected status {check.expect_status}, found {answer.status}", head
    if check.expect_body is not None and check.expect_body not in body:
        return f"{asked} on {parts.netloc}: the body does not contain {check.expect_body!r}", head
    return None, ()


def _command(check: CommandCheck, urls: Sequence[str], cancelled: threading.Event, env: Mapping[str, str]) -> Job:
    told = {**env, "REBAKE_URL": urls[0], "REBAKE_URLS": " ".join(urls)} if urls else dict(env)
    shown = " ".join(check.command)
    try:
        ended = run_program(check.command, told, check.timeout_ms / 1000, cwd=check.cwd, cancelled=cancelled)
    except OSError as error:
        return Job("failed", f"{shown}: {error.strerror}", (), "correct checks in rebake.yaml")
    tail = tuple(ended.output.decode("utf-8", "replace").splitlines()[-20:])
    if ended.code is None:
        why = "it was cancelled" if cancelled.is_set() else f"it did not end within {check.timeout_ms / 1000:g}s"
        return Job("failed", f"{shown}: {why}", tail)
    if ended.code != 0:
        again = f"REBAKE_URL={urls[0]} {shown}" if urls else shown
        return Job("failed", f"{shown}: exit {ended.code}", tail, again)
    return Job("done", f"{shown}: exit 0", tail)
