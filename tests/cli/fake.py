"""A fake application with the views of docs/api.md, and an agent that serves it on a real Unix socket in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rebake.core.agent_lock import take_lock
from rebake.core.home import Home
from rebake.errors import Refused, UsageError
from rebake.ledger.ports import unheard
from rebake.server.ports import Application, Doc
from rebake.server.private import listen_private
from rebake.server.serving import Agent
from rebake.server.wanted import Wanted

STABLE = "sha256:" + "a1" * 32
CANDIDATE = "sha256:" + "b2" * 32
RELEASE_A = "sha256:" + "0a" * 32
RELEASE_B = "sha256:" + "0b" * 32


def rollout_view(**changes: Any) -> Doc:
    view: Doc = {
        "rollout": "r-0001",
        "service": "guestbook",
        "environment": "production",
        "release": RELEASE_B,
        "revision": CANDIDATE,
        "kind": "deploy",
        "state": "shifting",
        "step": 1,
        "steps": 4,
        "reason": "the candidate serves 5 % of the users",
        "outcome": None,
        "verdict": None,
        "requests": {"stable": {"total": 950, "errors": 1}, "candidate": {"total": 50, "errors": 0}},
        "route": {"stable": 0.95, "candidate": 0.05},
        "instances": {"stable": {"wanted": 2, "healthy": 2}, "candidate": {"wanted": 2, "healthy": 2}},
        "checks": [{"name": "smoke", "state": "passed", "evidence": ["200"]}],
        "log_tail": [],
        "evidence": [[0.0, 1.0], [1.0, 2.5]],
        "requested_by": "ada@example",
        "started": "2026-01-02T03:04:05.000Z",
        "seconds": 1.5,
        "ended": None,
        "exit_code": 0,
        "remedy": None,
    }
    return view | changes


def promoted(**changes: Any) -> Doc:
    return rollout_view(
        state="soaking",
        step=4,
        outcome="promoted",
        reason="all steps were healthy",
        route={"stable": 0.0, "candidate": 1.0},
        seconds=4.2,
        **changes,
    )


def rolled_back(**changes: Any) -> Doc:
    return rollout_view(
        state="rolled-back",
        outcome="rolled-back",
        reason="the candidate fails 40 % of its requests, stable 0.1 %",
        route={"stable": 1.0, "candidate": 0.0},
        requests={"stable": {"total": 950, "errors": 1}, "candidate": {"total": 50, "errors": 20}},
        verdict={
            "verdict": "harmful",
            "evidence": 134.2,
            "needed": 100.0,
            "reason": "20 of 50 failed, 1 of 950 on stable",
            "brake": True,
            "fault": None,
            "stable": {"total": 950, "errors": 1},
            "candidate": {"total": 50, "errors": 20},
            "bound": None,
            "metrics": {"errors": 134.2},
        },
        log_tail=["Traceback (most recent call last):", "KeyError: 'author'"],
        ended="2026-01-02T03:04:09.000Z",
        exit_code=3,
        remedy="rebake logs production",
        **changes,
    )


def fleet(revision: str, release: str, healthy: int = 2) -> Doc:
    return {"revision": revision, "release": release, "instances": 2, "healthy": healthy, "fleet": revision[7:15]}


def environment_view(**changes: Any) -> Doc:
    view: Doc = {
        "service": "guestbook",
        "environment": "production",
        "platform": "local",
        "listen": "127.0.0.1:8081",
        "stable": fleet(STABLE, RELEASE_A),
        "candidate": None,
        "route": {STABLE: 1.0},
        "rollout": None,
        "previous": [CANDIDATE],
        "problems": [],
        "instances": [
            {
                "id": "guestbook-production-a1-0",
                "fleet": STABLE[7:15],
                "revision": STABLE,
                "cohort": "stable",
                "state": "running",
                "healthy": True,
                "address": "127.0.0.1:40001",
                "pid": 4242,
                "detail": None,
                "drift": [],
            }
        ],
        "last": promoted(rollout="r-0000"),
    }
    return view | changes


class FakeApplication:
    """Answers from what a test puts into it, and remembers what it was asked."""

    def __init__(self) -> None:
        self.environments = [environment_view()]
        self.journey: list[Doc] = [rollout_view(state="raising"), rollout_view(), promoted()]
        self.tapes: dict[str, Doc] = {}
        self.explained: dict[str, Doc] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.refuse: Exception | None = None
        self.started = self.closed = False
        self.undo_view: Doc = {
            "service": "guestbook",
            "environment": "production",
            "restored": CANDIDATE,
            "release": RELEASE_B,
            "undone": STABLE,
            "seconds": 0.042,
            "warm": True,
            "rollout": "r-0002",
            "changes": ["GREETING: welcome, was hello"],
        }
        self.quarantined = [
            {
                "service": "guestbook",
                "environment": "production",
                "revision": CANDIDATE,
                "release": RELEASE_B,
                "reason": "rolled back",
                "at": "2026-01-02T03:04:09.000Z",
            }
        ]
        self.frozen: list[Doc] = []
        self.group_view: Doc = {
            "group": "shop",
            "id": "g-1",
            "order": "lockstep",
            "outcome": "rolled-back",
            "reason": "guestbook/production: harmful",
            "exit_code": 3,
            "ended": True,
            "members": [rolled_back()],
            "serving": [],
        }
        self.faults: list[Doc] = []
        self.slow_verify = threading.Event()
        self.slow_verify.set()
        self.drifts: list[Doc] = []
        self.metric_rows: list[Doc] = []
        self._seen = 0

    def _called(self, *call: Any) -> None:
        self.calls.append(call)
        if self.refuse is not None:
            raise self.refuse

    def start(self) -> None:
        self.started = True

    def close(self) -> None:
        self.closed = True

    def figures(self) -> Doc:
        return {
            "environments": {"docker": 2},
            "led": 1,
            "rollouts": {"holding": 1},
            "looks": 7,
            "failed_looks": 3,
            "hanging": 0.5,
            "entries": 42,
        }

    def ails(self) -> str | None:
        return None

    def changes(self, since: int, timeout_seconds: float) -> int:
        self._seen += 1
        return since + 1

    def begin(self, doc: Mapping[str, Any]) -> Doc:
        self._called("begin", dict(doc))
        return self.journey[0]

    def rollout(self, rollout: str) -> Doc:
        if rollout != "r-0001":
            raise UsageError("unknown-rollout", f"there is no rollout {rollout}", remedy="rebake history production")
        return self.journey.pop(0) if len(self.journey) > 1 else self.journey[0]

    def tape(self, rollout: str) -> Doc:
        return self.tapes[rollout]

    def explain(self, rollout: str) -> Doc:
        return self.explained[rollout]

    def explain_picture(self, rollout: str) -> str:
        return f"<svg>{rollout}</svg>"

    def status(self) -> Doc:
        if isinstance(self.refuse, ZeroDivisionError):
            raise self.refuse
        return {"environments": self.environments}

    def environment(self, service: str, environment: str) -> Doc:
        for view in self.environments:
            if (view["service"], view["environment"]) == (service, environment):
                return view
        raise UsageError(
            "unknown-environment", f"nothing of {service} runs in {environment}", remedy=f"rebake deploy {environment}"
        )

    def undo(self, service: str, environment: str, doc: Mapping[str, Any]) -> Doc:
        self._called("undo", service, environment, dict(doc))
        return self.undo_view

    def stop(self, service: str, environment: str, doc: Mapping[str, Any]) -> Doc:
        self._called("stop", service, environment, dict(doc))
        return self.environment(service, environment)

    def approve(self, service: str, environment: str, doc: Mapping[str, Any]) -> Doc:
        self._called("approve", service, environment, dict(doc))
        return self.environment(service, environment)

    def begin_group(self, doc: Mapping[str, Any]) -> Doc:
        self._called("begin_group", dict(doc))
        return self.group_view

    def group(self, name: str) -> Doc:
        return self.group_view

    def stop_group(self, name: str, doc: Mapping[str, Any]) -> Doc:
        self._called("stop_group", name, dict(doc))
        return self.group_view

    def undo_group(self, name: str, doc: Mapping[str, Any]) -> Doc:
        self._called("undo_group", name, dict(doc))
        return self.group_view

    def freezes(self) -> Doc:
        return {"freezes": self.frozen}

    def freeze(self, doc: Mapping[str, Any]) -> Doc:
        self._called("freeze", dict(doc))
        return {"freezes": self.frozen}

    def lift(self, doc: Mapping[str, Any]) -> Doc:
        self._called("lift", dict(doc))
        return {"freezes": []}

    def down(self, service: str, environment: str, doc: Mapping[str, Any]) -> Doc:
        self._called("down", service, environment, dict(doc))
        return environment_view(stable=None, route={}, instances=[])

    def drift(self, service: str, environment: str) -> Doc:
        return {"service": service, "environment": environment, "drift": self.drifts, "checked": 2}

    def metrics(self, service: str, environment: str, doc: Mapping[str, Any]) -> Doc:
        self._called("metrics", service, environment, doc)
        return {"service": service, "environment": environment, "metrics": self.metric_rows}

    def logs(self, service: str, environment: str, *, instance: str | None, lines: int) -> Doc:
        self._called("logs", service, environment, instance, lines)
        text = ["started", "GET /notes 200"][-lines:]
        return {"logs": [{"instance": "guestbook-production-a1-0", "fleet": STABLE[7:15], "lines": text}]}

    def history(self, service: str, environment: str, *, limit: int) -> Doc:
        return {"history": [rolled_back(), promoted(rollout="r-0000")][:limit]}

    def ledger(
        self, *, after: int, limit: int, service: str | None, environment: str | None, rollout: str | None
    ) -> Doc:
        self._called("ledger", after, limit, service, environment, rollout)
        entries = [
            {
                "seq": seq,
                "at_ms": 1767323045000 + seq,
                "kind": "transition",
                "service": "guestbook",
                "environment": "production",
                "rollout": "r-0001",
                "body": {"to": "soaking"},
                "previous": f"{seq - 1:064x}",
                "hash": f"{seq:064x}",
            }
            for seq in range(1, 4)
            if seq > after
        ]
        return {"entries": entries[:limit], "head": {"seq": 3, "hash": f"{3:064x}"}}

    def verify(self, *, expect_head: str | None, progress: Callable[[int], None] = unheard) -> Doc:
        self._called("verify", expect_head)
        progress(2)
        self.slow_verify.wait(10)
        return {"entries": 3, "head": f"{3:064x}", "faults": self.faults}

    def leases(self) -> Doc:
        moment = "2026-01-02T03:04:05.000Z"
        row = {"environment": "guestbook/production", "owner": "home:1", "token": 7, "reason": "deploy r-0001, holding"}
        return {"leases": [{**row, "since": moment, "until": moment}]}

    def quarantine(self) -> Doc:
        return {"quarantine": self.quarantined}

    def quarantine_release(self, doc: Mapping[str, Any]) -> Doc:
        self._called("quarantine_release", dict(doc))
        self.quarantined = []
        return {"quarantine": []}

    def revision(self, prefix: str, *, service: str | None) -> Doc:
        raise UsageError("unknown-revision", f"no revision starts with {prefix}", remedy="rebake history ENV")

    def kept(self) -> Doc:
        return {"releases": [RELEASE_A], "secrets": [], "instances": ["guestbook-production-a1-0"]}


def quarantine_refusal() -> Refused:
    return Refused(
        "quarantined",
        "this revision was rolled back in production",
        where="guestbook/production",
        remedy="rebake quarantine release " + CANDIDATE[7:19],
        evidence=["rolled back: 20 of 50 failed"],
    )


@contextmanager
def served(root: Path, application: Application, wanted: Wanted | None = None) -> Any:
    """The true server over `application` on the home's own socket, under the home's own lock.

    Yields the running agent: its `urls` say where else it listens, as `wanted`.
    """
    home = Home(root)
    root.mkdir(parents=True, exist_ok=True)
    lock = take_lock(home.agent_lock)
    listener = listen_private(home.agent_socket)
    ready = threading.Event()
    agents: list[tuple[asyncio.AbstractEventLoop, Agent]] = []

    async def run() -> None:
        agent = Agent(home, application, wanted)
        agents.append((asyncio.get_running_loop(), agent))
        await agent.run(listener, ready.set)

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    assert ready.wait(10)
    try:
        yield agents[0][1]
    finally:
        loop, agent = agents[0]
        if not loop.is_closed():
            loop.call_soon_threadsafe(agent.stop)
        thread.join(15)
        import os

        os.close(lock)
        assert not thread.is_alive()
