"""Serving the API on a socket until told to stop: uvicorn, with the signals and the life cycle in our hands."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator

import uvicorn
from starlette.types import ASGIApp

from rebake import __version__
from rebake.core.clock import iso
from rebake.core.home import Home
from rebake.errors import Permanent
from rebake.server.api import api_app
from rebake.server.dashboard import Dashboard
from rebake.server.ports import Application, Doc
from rebake.server.team import Certificate, Open, doors
from rebake.server.wanted import Wanted

HOME_CHECK_SECONDS = 5.0
_GRACE_SECONDS = 2
"""How long answers under way may take after the agent was told to stop; watchers reconnect by themselves."""


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers, because two servers share this process and one place decides when it
    ends; and without its ten ticks a second, because an idle agent must cost nothing."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._told_to_end = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        await self._told_to_end.wait()

    def end(self) -> None:
        self.should_exit = True
        self._told_to_end.set()


def _server(app: ASGIApp, certificate: Certificate | None = None) -> _Server:
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        loop="asyncio",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    config.load()
    config.ssl = None if certificate is None else certificate.context
    return _Server(config)


class Agent:
    """The running agent: knows who it is, opens the dashboard when asked, ends when told."""

    def __init__(self, home: Home, application: Application, wanted: Wanted | None = None) -> None:
        self._home = home
        self._wanted = wanted or Wanted()
        self._doors: list[Open] = []
        self._application = application
        self._since = time.time()
        self._ended = asyncio.Event()
        self._servers: list[tuple[_Server, asyncio.Task[None]]] = []
        self._dashboard: tuple[int, str] | None = None

    @property
    def urls(self) -> list[str]:
        """Where it listens beside its Unix socket, in the order of `Wanted`: the API, the probes."""
        return [door.url for door in self._doors]

    def facts(self) -> Doc:
        return {
            "running": True,
            "pid": os.getpid(),
            "socket": str(self._home.agent_socket),
            "version": __version__,
            "since": iso(self._since),
            "home": str(self._home.root),
        }

    def stop(self) -> None:
        self._ended.set()

    def stop_on_signals(self) -> None:
        """End on SIGTERM and SIGINT. Only in the main thread of a process of our own."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)

    async def open_dashboard(self, port: int) -> str:
        """Open it on loopback, or give the URL of the one that is open. Another port opens another one."""
        if self._dashboard is not None and port in (0, self._dashboard[0]):
            return self._dashboard[1]
        dashboard, listener = Dashboard.open(self._application, self, port)
        self._serve(dashboard.app(), listener)
        self._dashboard = (dashboard.port, dashboard.url)
        return dashboard.url

    def _serve(self, app: ASGIApp, listener: socket.socket, certificate: Certificate | None = None) -> None:
        server = _server(app, certificate)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        task.add_done_callback(lambda _: self._ended.set())  # a server that ends by itself ends the agent, visibly
        self._servers.append((server, task))

    async def _end(self) -> None:
        """Wait until told to end, or until the home is gone: without one an agent would stay for ever, unseen."""
        while self._home.agent_lock.exists():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), HOME_CHECK_SECONDS)
                return
            self._renew()
        logging.getLogger("rebake.agent").warning("%s is gone", self._home.root)

    def _renew(self) -> None:
        for door in self._doors:
            try:
                if door.certificate is not None:
                    door.certificate.renew()
            except Permanent as error:
                logging.getLogger("rebake.agent").error("%s (%s)", error.problem, error.where)

    async def run(self, listener: socket.socket, ready: Callable[[], None]) -> None:
        """Serve until `stop`. `ready` is called once callers are answered.

        Raises: UsageError, Permanent where it cannot listen as it is wanted.
        """
        self._doors = doors(self._wanted, self._application, self)
        for door in self._doors:
            self._serve(door.app, door.listener, door.certificate)
            logging.getLogger("rebake.agent").info("listens on %s", door.url)
        self._serve(api_app(self._application, self), listener)
        ready()  # the socket listens already: who connects now waits for a moment and is answered
        await self._end()
        for server, _ in self._servers:
            server.end()
        await asyncio.gather(*(task for _, task in self._servers))
