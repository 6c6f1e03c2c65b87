"""The true agent process over the fake application: `python tests/cli/fake_agent.py --home …`."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.cli.fake import FakeApplication

from rebake.core.home import Home
from rebake.errors import Permanent
from rebake.server import agent, serving
from rebake.server.agent import end, main
from rebake.server.ports import Application


def make(home: Home) -> Application:
    """A fake application, or the failure that a test wishes for."""
    if os.environ.get("FAKE_AGENT") == "disk-full":
        raise Permanent("disk-full", "no space left on the device", where=str(home.database), remedy="make room")
    if os.environ.get("FAKE_AGENT") == "dies":
        os._exit(9)
    if os.environ.get("FAKE_AGENT") == "defect":
        raise ZeroDivisionError("a defect")
    application = FakeApplication()
    if os.environ.get("FAKE_AGENT") == "homeless":
        serving.HOME_CHECK_SECONDS = 0.05
    if os.environ.get("FAKE_AGENT") == "hangs":
        agent.CLOSE_SECONDS = 0.2
        application.close = threading.Event().wait  # type: ignore[assignment, method-assign]
    return application


if __name__ == "__main__":
    end(main(make=make))
