"""The agent's process: `python -m rebake.server.agent --home FOLDER`.

It takes the home's lock, opens the state, serves the API on a private Unix socket and ends on SIGTERM, SIGINT or
`POST /v1/agent/stop`. Nothing that serves users ends with it. Whoever started it learns over a pipe (`--ready-fd`),
in one line of JSON, that it is ready, that another agent was first, or why it could not start.

Importing this module must stay cheap: the process forks before anything heavy is loaded.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rebake.core.agent_lock import Busy, take_lock
from rebake.core.home import Home
from rebake.errors import BrokenInvariant, Permanent, RebakeError
from rebake.server.private import listen_private
from rebake.server.wanted import Wanted

if TYPE_CHECKING:
    from rebake.server.ports import Application


CLOSE_SECONDS = 5.0


def detach() -> None:
    """Leave the terminal and the parent for good: two forks and a session of our own.

    Standard output and error stay what the starter gave (agent.log), until the journal takes them.
    Source: daemon(7), SysV daemons, steps 5 to 8.
    """
    if os.fork() > 0:
        os._exit(0)
    os.setsid()
    if os.fork() > 0:
        os._exit(0)
    os.chdir("/")


class Starter:
    """Whoever started us, told once how it went."""

    def __init__(self, handle: int | None) -> None:
        self._handle = handle

    def tell(self, **doc: Any) -> None:
        if self._handle is None:
            return
        with contextlib.suppress(OSError):  # it may have gone away meanwhile; the agent serves all the same
            os.write(self._handle, json.dumps(doc).encode() + b"\n")
        os.close(self._handle)
        self._handle = None


def _real_application(home: Home) -> Application:
    from rebake.app.application import App

    return App(home)


def serve(home: Home, starter: Starter, make: Callable[[Home], Application], wanted: Wanted) -> None:
    """Start the application, serve until told to stop, close the application. The caller holds the lock."""
    import asyncio
    import logging

    log = logging.getLogger("rebake.agent")
    application = make(home)
    application.start()
    try:
        from rebake.server.serving import Agent

        async def run() -> None:
            agent = Agent(home, application, wanted)
            agent.stop_on_signals()
            await agent.run(listen_private(home.agent_socket), lambda: starter.tell(ready=True))

        log.info("ready, pid %d, home %s", os.getpid(), home.root)
        asyncio.run(run())
        log.info("ending")
        home.agent_socket.unlink(missing_ok=True)
    finally:
        close(application)


def close(application: Application) -> None:
    """Close it within `CLOSE_SECONDS`; what hangs longer is written to the log, and ends with the process.

    That is safe: an agent may be killed at any instant (promise 9).
    """
    import faulthandler
    import logging
    import threading

    closing = threading.Thread(target=application.close, name="closing", daemon=True)
    closing.start()
    closing.join(CLOSE_SECONDS)
    if closing.is_alive():
        logging.getLogger("rebake.agent").error("closing hangs after %g seconds; every thread is here:", CLOSE_SECONDS)
        faulthandler.dump_traceback()


def _explained(error: BaseException, home: Home) -> RebakeError:
    """What the starter is told about an agent that could not start."""
    if isinstance(error, RebakeError):
        return error
    if isinstance(error, OSError):
        remedy = "see that the disk has room and that the folder is yours: rebake doctor"
        where = str(error.filename or home.root)
        return Permanent("agent-cannot-start", f"the agent cannot start: {error.strerror}", where=where, remedy=remedy)
    return BrokenInvariant(f"the agent cannot start: {type(error).__name__}: {error}", where=str(home.agent_log))


def run(home: Home, starter: Starter, make: Callable[[Home], Application], *, foreground: bool, wanted: Wanted) -> int:
    """Be the agent of this home. Returns the exit code."""
    import logging

    from rebake.server.journal import open_journal

    try:
        home.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = take_lock(home.agent_lock)
    except Busy:
        starter.tell(busy=True)
        return 0
    except OSError as error:
        starter.tell(error=_explained(error, home).to_json())
        return 5
    try:
        open_journal(home.agent_log, foreground=foreground)
        serve(home, starter, make, wanted)
    except Exception as error:
        logging.getLogger("rebake.agent").exception("the agent ends")
        told = _explained(error, home)
        starter.tell(error=told.to_json())
        return told.exit_code
    finally:
        os.close(lock)
    return 0


def main(argv: Sequence[str] | None = None, make: Callable[[Home], Application] = _real_application) -> int:
    parser = argparse.ArgumentParser(prog="rebake.server.agent", description=__doc__)
    parser.add_argument("--home", required=True, type=Path)
    parser.add_argument("--ready-fd", type=int, default=None, help="descriptor that is told how the start went")
    parser.add_argument("--detach", action="store_true", help="leave the terminal and the parent")
    Wanted.ask(parser)
    args = parser.parse_args(argv)
    if args.ready_fd is not None:
        os.set_inheritable(args.ready_fd, False)
    if args.detach:
        detach()
    starter, wanted = Starter(args.ready_fd), Wanted.told(args)
    return run(Home(args.home.absolute()), starter, make, foreground=not args.detach, wanted=wanted)


def end(code: int) -> NoReturn:
    """End this process now: a thread that hangs must not hold the home's lock."""
    import logging

    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    end(main())
