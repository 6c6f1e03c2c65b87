"""The API of docs/api.md as a Starlette application over an `Application`.

It decides nothing: it reads the request, calls the application in a thread (every call blocks), and writes the answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Protocol

import anyio
from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from rebake import __version__
from rebake.errors import RebakeError, UsageError
from rebake.server.ports import Application, Doc
from rebake.server.replies import VERSION_HEADER, answer, as_rebake_error, defect, encode, refusal
from rebake.server.requests import body_of, check_version, number, text, unknown_call
from rebake.server.slow import Slow

WATCHERS = 64
"""How many may follow rollouts at a time, each at the price of a waiting thread."""
HEARTBEAT_SECONDS = 1.0

Handler = Callable[[Request], Awaitable[Response]]


class Host(Protocol):
    """What the process that serves can tell and do; the application knows nothing of it."""

    def facts(self) -> Doc:
        """`{"running", "pid", "socket", "version", "since", "home"}`."""
        ...

    def stop(self) -> None:
        """Begin to end the agent."""
        ...

    async def open_dashboard(self, port: int) -> str:
        """The URL of the dashboard, opened if it was not. `port` 0 means any."""
        ...


def guarded(handler: Handler) -> Handler:
    """Turn every exception into the error document, and refuse callers of another version before anything is done."""

    async def guarded_handler(request: Request) -> Response:
        try:
            check_version(request)
            return await handler(request)
        except Exception as error:
            return refusal(as_rebake_error(error, f"{request.method} {request.url.path}"))

    return guarded_handler


def has_ended(view: Mapping[str, Any], until: str) -> bool:
    """Whether a watch ends with this view: at its outcome (`promoted`) or when all is over (`end`)."""
    return bool(view.get("ended")) or (until == "promoted" and view.get("outcome") is not None)


def plain(call: Callable[[], Doc]) -> Handler:
    """The handler of a call that takes nothing."""

    async def plain_handler(_: Request) -> Response:
        return answer(await to_thread.run_sync(call))

    return plain_handler


class Api:
    """The handlers, one for each call."""

    def __init__(self, application: Application, host: Host) -> None:
        self._app = application
        self._host = host
        self._watchers = CapacityLimiter(WATCHERS)

    async def agent(self, _: Request) -> Response:
        return answer(self._host.facts())

    async def agent_stop(self, _: Request) -> Response:
        self._host.stop()
        return answer({})

    async def dashboard(self, request: Request) -> Response:
        doc = await body_of(request)
        port = doc.get("port") or 0
        if not isinstance(port, int) or not 0 <= port <= 65535:
            raise UsageError("parameter-invalid", f"expected a port from 0 to 65535, found {port!r}", where="port")
        return answer({"url": await self._host.open_dashboard(port)})

    async def begin(self, request: Request) -> Response:
        doc = await body_of(request)
        return answer(await to_thread.run_sync(self._app.begin, doc), 202)

    async def rollout(self, request: Request) -> Response:
        return answer(await to_thread.run_sync(self._app.rollout, request.path_params["rollout"]))

    async def watch(self, request: Request) -> Response:
        until = text(request, "until") or "promoted"
        if until not in ("promoted", "end"):
            raise UsageError("parameter-invalid", f"expected promoted or end, found {until!r}", where="until")
        rollout = request.path_params["rollout"]
        first = await to_thread.run_sync(self._app.rollout, rollout)
        headers = {VERSION_HEADER: __version__, "cache-control": "no-store"}
        return StreamingResponse(self._follow(rollout, until, first), 200, headers, "application/x-ndjson")

    async def _follow(self, rollout: str, until: str, view: Doc) -> AsyncIterator[bytes]:
        """Views as lines: one now, one on every change, one at least each second, until the end."""
        seen, last = 0, anyio.current_time()
        yield encode(view) + b"\n"
        try:
            while not has_ended(view, until):
                wait = partial(self._app.changes, seen, HEARTBEAT_SECONDS)
                seen = await to_thread.run_sync(wait, abandon_on_cancel=True, limiter=self._watchers)
                fresh = await to_thread.run_sync(self._app.rollout, rollout)
                if fresh != view or anyio.current_time() - last >= HEARTBEAT_SECONDS:
                    view, last = fresh, anyio.current_time()
                    yield encode(view) + b"\n"
        except RebakeError as error:
            yield encode(error.to_json()) + b"\n"
        except Exception as error:
            yield encode(defect(error, "a watch").to_json()) + b"\n"

    async def tape(self, request: Request) -> Response:
        return answer(await to_thread.run_sync(self._app.tape, request.path_params["rollout"]))

    async def explain(self, request: Request) -> Response:
        return answer(await to_thread.run_sync(self._app.explain, request.path_params["rollout"]))

    async def explain_picture(self, request: Request) -> Response:
        drawn = await to_thread.run_sync(self._app.explain_picture, request.path_params["rollout"])
        headers = {VERSION_HEADER: __version__, "cache-control": "no-store"}
        return Response(drawn, headers=headers, media_type="image/svg+xml")

    async def environment(self, request: Request) -> Response:
        return await self._of_environment(request, self._app.environment)

    async def drift(self, request: Request) -> Response:
        return await self._of_environment(request, self._app.drift)

    async def logs(self, request: Request) -> Response:
        lines = number(request, "lines", 50)
        return await self._of_environment(
            request, partial(self._app.logs, instance=text(request, "instance"), lines=lines)
        )

    async def history(self, request: Request) -> Response:
        return await self._of_environment(request, partial(self._app.history, limit=number(request, "limit", 20)))

    async def undo(self, request: Request) -> Response:
        return await self._act(request, self._app.undo)

    async def stop(self, request: Request) -> Response:
        return await self._act(request, self._app.stop)

    async def approve(self, request: Request) -> Response:
        return await self._act(request, self._app.approve)

    async def down(self, request: Request) -> Response:
        return await self._act(request, self._app.down)

    async def metrics(self, request: Request) -> Response:
        return await self._act(request, self._app.metrics)

    async def ledger(self, request: Request) -> Response:
        call = partial(
            self._app.ledger,
            after=number(request, "after", 0, most=1 << 62),
            limit=number(request, "limit", 100),
            service=text(request, "service"),
            environment=text(request, "environment"),
            rollout=text(request, "rollout"),
        )
        return answer(await to_thread.run_sync(call))

    async def verify(self, request: Request) -> Response:
        call = partial(self._app.verify, expect_head=text(request, "expect_head"))
        if not number(request, "progress", 0, most=1):
            return answer(await to_thread.run_sync(call))
        headers = {VERSION_HEADER: __version__, "cache-control": "no-store"}
        return StreamingResponse(self._verifying(Slow(call)), 200, headers, "application/x-ndjson")

    async def _verifying(self, work: Slow) -> AsyncIterator[bytes]:
        """How many entries were read, at least each second; at last what was found."""
        try:
            while not await to_thread.run_sync(work.wait, HEARTBEAT_SECONDS, limiter=self._watchers):
                yield encode({"checked": work.count}) + b"\n"
            yield encode(work.result()) + b"\n"
        except Exception as error:
            yield encode(as_rebake_error(error, "a verification").to_json()) + b"\n"

    async def quarantine_release(self, request: Request) -> Response:
        doc = await body_of(request)
        return answer(await to_thread.run_sync(self._app.quarantine_release, doc))

    async def begin_group(self, request: Request) -> Response:
        doc = await body_of(request)
        return answer(await to_thread.run_sync(self._app.begin_group, doc), 202)

    async def group(self, request: Request) -> Response:
        return answer(await to_thread.run_sync(self._app.group, request.path_params["group"]))

    async def stop_group(self, request: Request) -> Response:
        doc = await body_of(request)
        return answer(await to_thread.run_sync(self._app.stop_group, request.path_params["group"], doc))

    async def undo_group(self, request: Request) -> Response:
        doc = await body_of(request)
        return answer(await to_thread.run_sync(self._app.undo_group, request.path_params["group"], doc))

    async def freeze(self, request: Request) -> Response:
        doc = await body_of(request)
        return answer(await to_thread.run_sync(self._app.freeze, doc))

    async def lift(self, request: Request) -> Response:
        doc = await body_of(request)
        return answer(await to_thread.run_sync(self._app.lift, doc))

    async def revision(self, request: Request) -> Response:
        call = partial(self._app.revision, request.path_params["revision"], service=text(request, "service"))
        return answer(await to_thread.run_sync(call))

    async def _of_environment(self, request: Request, call: Callable[[str, str], Doc]) -> Response:
        path = request.path_params
        return answer(await to_thread.run_sync(call, path["service"], path["environment"]))

    async def _act(self, request: Request, call: Callable[[str, str, Mapping[str, Any]], Doc]) -> Response:
        doc = await body_of(request)
        path = request.path_params
        return answer(await to_thread.run_sync(call, path["service"], path["environment"], doc))


def read_routes(api: Api, application: Application) -> list[Route]:
    """The calls that change nothing; the dashboard serves these alone."""
    of = "/v1/environments/{service}/{environment}"
    calls: list[tuple[str, Handler]] = [
        ("/v1/agent", api.agent),
        ("/v1/rollouts/{rollout}", api.rollout),
        ("/v1/rollouts/{rollout}/watch", api.watch),
        ("/v1/rollouts/{rollout}/tape", api.tape),
        ("/v1/rollouts/{rollout}/explain", api.explain),
        ("/v1/rollouts/{rollout}/explain.svg", api.explain_picture),
        ("/v1/status", plain(application.status)),
        (of, api.environment),
        (f"{of}/logs", api.logs),
        (f"{of}/history", api.history),
        ("/v1/ledger", api.ledger),
        ("/v1/ledger/verify", api.verify),
        ("/v1/leases", plain(application.leases)),
        ("/v1/quarantine", plain(application.quarantine)),
        ("/v1/freezes", plain(application.freezes)),
        ("/v1/groups/{group}", api.group),
        ("/v1/revisions/{revision}", api.revision),
        ("/v1/kept", plain(application.kept)),
    ]
    return [Route(path, guarded(handler), methods=["GET"]) for path, handler in calls]


def _write_routes(api: Api) -> list[Route]:
    of = "/v1/environments/{service}/{environment}"
    calls: list[tuple[str, Handler]] = [
        ("/v1/agent/stop", api.agent_stop),
        ("/v1/dashboard", api.dashboard),
        ("/v1/rollouts", api.begin),
        (f"{of}/undo", api.undo),
        (f"{of}/stop", api.stop),
        (f"{of}/approve", api.approve),
        (f"{of}/down", api.down),
        (f"{of}/metrics", api.metrics),  # runs the user's programs: not for a mere looker-on
        ("/v1/quarantine/release", api.quarantine_release),
        ("/v1/freezes", api.freeze),
        ("/v1/groups", api.begin_group),
        ("/v1/groups/{group}/stop", api.stop_group),
        ("/v1/groups/{group}/undo", api.undo_group),
        ("/v1/freezes/lift", api.lift),
    ]
    looked_for = Route(f"{of}/drift", guarded(api.drift), methods=["GET"])  # does work: not for a mere looker-on
    return [looked_for, *(Route(path, guarded(handler), methods=["POST"]) for path, handler in calls)]


async def _no_such_call(request: Request, _: Exception) -> Response:
    return refusal(unknown_call(request))


def api_app(application: Application, host: Host) -> Starlette:
    """Everything of docs/api.md. Who may connect is decided by the socket it is served on (mode 0600)."""
    api = Api(application, host)
    return Starlette(
        routes=_write_routes(api) + read_routes(api, application),
        exception_handlers={404: _no_such_call, 405: _no_such_call},
    )
