"""One command's dealings with the agent, of this machine or a team's: which home, which service, and an answer."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from rebake import __version__
from rebake.cli import agent_process
from rebake.cli.client import CALL_SECONDS, AgentAbsent, AgentLost, Client, OtherVersion
from rebake.cli.remote import Remote, remote_from
from rebake.core.home import Home
from rebake.core.ids import timed_id
from rebake.errors import Permanent, RebakeError, Transient, UsageError

T = TypeVar("T")

NOTHING_DEPLOYED = "nothing is deployed yet"
_TRIES = 3
AWAY_SECONDS = 60.0
"""How long one that broke off waits for a team's server or the database: another replica leads within 15 seconds."""
_PAUSE_SECONDS = 1.0
_AWAY = frozenset({"server-away", "agent-lost", "agent-not-answering"})
_LEDGER_AWAY = frozenset({"ledger-unreachable", "ledger-busy"})


class Session:
    """The home of this command and its agent. The agent is started when a call needs it.

    Attributes:
        remote: the team's server that is asked instead of an agent here; None when there is none.
    """

    def __init__(
        self,
        home: Home | None = None,
        *,
        here: bool = False,
        now: Callable[[], float] = time.monotonic,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        """Args: here: the agent of this machine is meant, whatever the environment names. now, pause: in seconds."""
        self._now, self._pause = now, pause
        self.home = home or Home.from_env(os.environ)
        self.remote = None if here else remote_from(os.environ)
        agent_process.check_home(self.home)
        self._client = Client(self.remote or self.home.agent_socket)

    def is_fresh(self) -> bool:
        """Nothing was ever deployed from this home, so there is nothing to ask about."""
        home = self.home
        if self.remote is not None:
            return False
        signs = (home.database, home.ledger_place, home.agent_socket)
        return not os.environ.get("REBAKE_DATABASE") and not any(sign.exists() for sign in signs)

    def require_state(self) -> None:
        """Raises: UsageError `nothing-deployed`, instead of starting an agent that has nothing to tell."""
        if self.is_fresh():
            raise UsageError(
                "nothing-deployed",
                NOTHING_DEPLOYED,
                where=str(self.home.root),
                remedy="rebake deploy ENV, in a folder with a rebake.yaml",
            )

    def get(self, target: str, **params: Any) -> Any:
        """A reading call; tried again when the agent dies in the middle of it."""
        target = with_params(target, params)
        return self._insist(lambda: self._client.call("GET", target))

    def post(self, target: str, doc: Mapping[str, Any], *, timeout: float = CALL_SECONDS) -> Any:
        """An acting call. It has a name, by which it is asked for again when its answer was lost: it is done once."""
        named = {"id": timed_id("q", time.time()), **doc}
        return self._insist(lambda: self._client.call("POST", target, named, timeout=timeout))

    def lines(self, target: str, **params: Any) -> Iterator[Any]:
        """The documents of a reading call that tells how far it is, as they come."""
        for _ in range(_TRIES):
            try:
                yield from self._client.lines(with_params(target, params))
                return
            except (AgentAbsent, OtherVersion) as error:  # before the first of them
                self._recover(error)
        raise _gone(self.home)

    def follow(self, rollout: str, until: str) -> Iterator[Any]:
        """Rollout views until the end. An agent that dies meanwhile is started again, and the watch goes on; a team's
        server is waited for."""
        target = with_params(f"/v1/rollouts/{quote(rollout)}/watch", {"until": until})
        lost, heard = 0, self._now()
        while True:
            view: dict[str, Any] = {}
            try:
                for view in self._client.lines(target):
                    lost, heard = 0, self._now()
                    yield view
            except (AgentAbsent, OtherVersion, Transient) as error:
                if self._is_awaited(error, heard):
                    self._pause(_PAUSE_SECONDS)
                    continue
                if not isinstance(error, AgentAbsent | OtherVersion | AgentLost):
                    raise
                lost += 1
                if lost > _TRIES:
                    raise _gone(self.home) from error
                self._recover(error)
                continue
            if view.get("ended") or (until == "promoted" and view.get("outcome")):
                return
            lost += 1  # the stream ended early: the agent was stopped
            if lost > _TRIES:
                raise _gone(self.home)

    def _is_awaited(self, error: Exception, heard: float) -> bool:
        """Whether a team's server, or the database, that is away may be there again in a moment."""
        code = error.code if isinstance(error, Transient) else ""
        away = code in _LEDGER_AWAY or (self.remote is not None and code in _AWAY)
        return away and self._now() - heard < AWAY_SECONDS

    def _insist(self, ask: Callable[[], T]) -> T:
        """Ask until there is an answer: an agent is started again, a team's next replica is waited for."""
        tries = 0
        lost: float | None = None
        while tries < _TRIES:
            try:
                return ask()
            except (AgentAbsent, OtherVersion, Transient) as error:
                if isinstance(error, AgentLost) and lost is None:
                    lost = self._now()
                if lost is not None and self._is_awaited(error, lost):
                    self._pause(_PAUSE_SECONDS)
                    continue
                if not isinstance(error, AgentAbsent | OtherVersion | AgentLost):
                    raise
                tries += 1
                self._recover(error)
        raise _gone(self.home)

    def _recover(self, error: Exception) -> None:
        if self.remote is not None:
            raise _not_recovered(self.remote, error) from error
        if isinstance(error, OtherVersion):
            agent_process.replace(self.home, error.version)
        else:
            agent_process.start(self.home)

    def service_of(self, environment: str | None, explicit: str | None, file: Path) -> str:
        """Which service a command means: the one it names, the one of the file here, or the only one there is.

        Raises: UsageError `which-service` that lists them.
        """
        if explicit:
            return explicit
        from rebake.spec.peek import peek_service

        if file.exists() and (name := peek_service(file)):
            return name
        views = self.get("/v1/status")["environments"]
        known = sorted({v["service"] for v in views if environment in (None, v["environment"])})
        if len(known) == 1:
            return str(known[0])
        raise _which(environment, known, sorted({f"{v['service']}/{v['environment']}" for v in views}))


def _which(environment: str | None, known: list[str], everything: list[str]) -> UsageError:
    if not everything:
        return UsageError(
            "nothing-deployed", NOTHING_DEPLOYED, remedy="rebake deploy ENV, in a folder with rebake.yaml"
        )
    if not known:
        problem = f"no service has an environment {environment}"
    else:
        problem = f"expected one service, found {len(known)}: {', '.join(known)}"
    remedy = "name it with --service NAME, or run the command in the folder of its rebake.yaml"
    return UsageError("which-service", problem, remedy=remedy, evidence=[f"known: {', '.join(everything)}"])


def _not_recovered(remote: Remote, error: Exception) -> RebakeError:
    """Nobody here can start a team's server again."""
    if isinstance(error, OtherVersion):
        return UsageError(
            "server-of-another-version",
            f"this is rebake {__version__}, but the server is rebake {error.version}",
            where=str(remote),
            remedy=f"use the server's version here: pip install rebake=={error.version}",
        )
    return Transient(
        "server-away",
        "the server went away before it answered; what was begun goes on",
        where=str(remote),
        remedy="rebake status",
        retry_after_seconds=2.0,
    )


def _gone(home: Home) -> Permanent:
    return Permanent(
        "agent-keeps-dying",
        "the agent ends again and again",
        where=str(home.agent_log),
        remedy="rebake doctor, and report the log if it is a defect",
        evidence=agent_process.tail(home),
    )


def with_params(target: str, params: Mapping[str, Any]) -> str:
    """
    >>> with_params("/v1/ledger", {"after": 3, "service": None})
    '/v1/ledger?after=3'
    """
    given = {name: value for name, value in params.items() if value is not None}
    return f"{target}?{urlencode(given)}" if given else target


def environment_path(service: str, environment: str, call: str = "") -> str:
    """The path of an environment's call in the API."""
    path = f"/v1/environments/{quote(service, safe='')}/{quote(environment, safe='')}"
    return f"{path}/{call}" if call else path


def requested_by() -> str:
    """Who asks, for the ledger: `ada@laptop (pid 123, terminal)`, or `ci` where nobody sits."""
    import getpass

    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    kind = "ci" if os.environ.get("CI") else "terminal" if sys.stdin.isatty() or sys.stderr.isatty() else "no terminal"
    return f"{user}@{os.uname().nodename} (pid {os.getpid()}, {kind})"
