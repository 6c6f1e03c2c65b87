"""Differences between a running process and what was released: pure comparison of what was read.

A released command may become another by itself: a script's first line names its interpreter, `sh -c 'exec …'` execs, a
server writes a title over its arguments. So what is compared with is the released command line, and else the process as
it was when it passed its first health check. A later exec shows in the addresses of its arguments (`Settled.image`),
which nothing but an exec changes.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping

from rebake.platforms.local.processes import hash_value
from rebake.platforms.local.records import Settled
from rebake.platforms.local.requests import LaunchRequest
from rebake.platforms.model import Drift

_SHOWN = 200


def _text(command: tuple[str, ...]) -> str:
    text = shlex.join(command)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def process_drift(instance: str, request: LaunchRequest, settled: Settled | None, found: Settled) -> Iterator[Drift]:
    """Command line and environment of one process.

    Args:
        settled: the process when it was healthy first; None while it starts (then nothing is judged).
        found: the process now.
    """
    if settled is None or found.image == settled.image:
        return
    if found.command not in (settled.command, request.argv):
        yield Drift("command", instance, _text(settled.command), _text(found.command))
    if found.image[0] != settled.image[0]:
        yield Drift("command", f"{instance}: executable", settled.image[0], found.image[0])
    yield from environment_drift(instance, settled.environment, found.environment, request)


def environment_drift(
    instance: str, expected: Mapping[str, str], found: Mapping[str, str], request: LaunchRequest
) -> Iterator[Drift]:
    """Names that were added, removed or given another value. Values of secrets are not shown, nor are unknown ones."""
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            yield Drift("environment", f"{instance}: {name}", _shown(name, expected, request), _presence(name, found))


def _shown(name: str, hashes: Mapping[str, str], request: LaunchRequest) -> str:
    value = request.env.get(name)
    if value is not None and hash_value(value) == hashes.get(name):
        return value
    return _presence(name, hashes)


def _presence(name: str, hashes: Mapping[str, str]) -> str:
    return "another value" if name in hashes else ""
