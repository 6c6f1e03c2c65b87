"""An agent that does nothing any more can still be ended."""

from __future__ import annotations

import os
import signal

import pytest

from rebake.core.agent_lock import lock_holder
from rebake.core.home import Home
from tests.e2e.site import Site, alive

pytestmark = pytest.mark.real


def test_an_agent_that_stands_still_is_ended(site: Site) -> None:
    assert site.rebake("agent", "start").code == 0
    pid = lock_holder(Home(site.home).agent_lock)
    assert pid
    os.kill(pid, signal.SIGSTOP)
    ended = site.rebake("agent", "stop")
    assert ended.code == 0, ended.err
    assert f"pid {pid}" in ended.out
    assert not alive(pid)
