"""The application port: what the API asks of rebake itself. One method for each call of docs/api.md.

Documents go in and come out as JSON values (`dict`, `list`, `str`, `int`, `float`, `bool`, `None`), in the shapes of
docs/api.md. The server owns what it alone knows: who serves (`GET /v1/agent`), the dashboard and the stop of the agent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

Doc = dict[str, Any]


class Application(Protocol):
    """rebake behind its API. Every call blocks, is made from a pool of threads, and may run beside any other call.

    Raises (every method): the families of rebake.errors, which the API hands over whole. What does not exist is a
    `UsageError` whose code starts with `unknown-` (`unknown-environment`, `unknown-rollout`, `unknown-revision`,
    `unknown-service`, `unknown-instance`) and whose remedy names what does exist. Anything else that is raised is
    shown as a BrokenInvariant and logged with its traceback.
    """

    def start(self) -> None:
        """Open the state and begin to work. Called once, before the socket opens; may recover what a crash left.

        An error raised here ends the agent, and the command line that started it prints it.
        """
        ...

    def close(self) -> None:
        """Stop working; nothing that serves stops. Called once, at most a few seconds may pass."""
        ...

    def figures(self) -> Doc:
        """What a server shows of itself: `{"environments": {platform: count}, "led": how many of them this engine
        leads, "rollouts": {state: count} of those under way, "looks", "failed_looks": since the start, "hanging":
        seconds since the oldest look under way began, "entries": of the ledger}`.

        Raises: RebakeError when the ledger cannot be read.
        """
        ...

    def ails(self) -> str | None:
        """What is wrong with this process so that only another one helps; None when nothing is. Asks nobody."""
        ...

    def changes(self, since: int, timeout_seconds: float) -> int:
        """Wait until something changed that a view shows, and return the count of changes so far.

        Args:
            since: the count the caller saw last; 0 at first. When the count differs, the answer comes at once.
            timeout_seconds: how long to wait for a change; after that the count comes back as it is.
        """
        ...

    def begin(self, doc: Mapping[str, Any]) -> Doc:
        """Begin a rollout; the rollout view.

        Args:
            doc: `{"plan", "release", "env", "secrets", "secret_values", "requested_by", "again"}`.
                `plan`: `codec.dump(Plan)`. `release`: a digest in the store. `env`: the environment's own variables
                (`spec.plan.settings_env`), which make the revision together with the secrets' versions.
                `secrets`: variable to source, `file:/path` (read by the agent) or `env:NAME` (read by the command
                line, whose environment it is, and handed over in `secret_values` by NAME). A value is for the
                vault alone; it goes into no document, log or error.
                `from_afar`: the caller is not on this machine. Then files are handed over too, by their whole
                source, and nothing of the request is read from this machine or run on it.
                `repository`: where the release can be fetched from, if it is not in the store; or null.
                `again`: also when this revision serves already.
        Raises: Refused when a gate says no (another environment first, quarantine, an older request).
        """
        ...

    def rollout(self, rollout: str) -> Doc:
        """One rollout view, by its whole id."""
        ...

    def tape(self, rollout: str) -> Doc:
        """What the judge of a rollout was fed, packed: see docs/api.md. Raises: UsageError `no-tape`."""
        ...

    def explain(self, rollout: str) -> Doc:
        """The course of a rollout as its judge saw it: see docs/api.md."""
        ...

    def explain_picture(self, rollout: str) -> str:
        """The same as one picture, SVG."""
        ...

    def status(self) -> Doc:
        """`{"environments": [environment view, …]}`, by service and then environment."""
        ...

    def environment(self, service: str, environment: str) -> Doc:
        """One environment view."""
        ...

    def undo(self, service: str, environment: str, doc: Mapping[str, Any]) -> Doc:
        """Put the previous revision back: `{"requested_by", "dry_run"}` gives the undo view, once the route is back
        (`warm`) or the rollout that raises it again has begun."""
        ...

    def stop(self, service: str, environment: str, doc: Mapping[str, Any]) -> Doc:
        """Stop what is under way (`{"requested_by"}`); safe when nothing is. The environment view."""
        ...

    def approve(self, service: str, environment: str, doc: Mapping[str, Any]) -> Doc:
        """A person (`{"requested_by"}`) lets the waiting rollout go on. The environment view."""
        ...

    def down(self, service: str, environment: str, doc: Mapping[str, Any]) -> Doc:
        """Retire every fleet and close the listener (`{"requested_by"}`). The environment view, once it is done."""
        ...

    def begin_group(self, doc: Mapping[str, Any]) -> Doc:
        """Deploy several environments together: `{"group", "order": "lockstep|ordered", "members": [as for `begin`],
        "requested_by", "again"}`. The group view."""
        ...

    def group(self, name: str) -> Doc:
        """The newest group of a name, or the one of an id: `{"group", "id", "order", "requested_by", "started",
        "outcome": as of a rollout, or null, "reason", "exit_code", "ended", "members": [rollout view, …], "serving":
        ["SERVICE/ENV" that took no part]}`."""
        ...

    def stop_group(self, name: str, doc: Mapping[str, Any]) -> Doc:
        """Stop every member that is under way (`{"requested_by"}`). The group view."""
        ...

    def undo_group(self, name: str, doc: Mapping[str, Any]) -> Doc:
        """Take every member back (`{"requested_by"}`). The group view; its members are the rollouts that go back."""
        ...

    def freezes(self) -> Doc:
        """What is frozen now: `{"freezes": [{"environment": "SERVICE/ENV" or null for all, "by", "at", "until",
        "reason"}]}`."""
        ...

    def freeze(self, doc: Mapping[str, Any]) -> Doc:
        """Stop the line: `{"service", "environment", "until": seconds since the epoch, "reason", "requested_by"}`, or
        without service and environment for every one. The list of freezes."""
        ...

    def lift(self, doc: Mapping[str, Any]) -> Doc:
        """End a freeze: `{"service", "environment", "requested_by"}`. The list that is left."""
        ...

    def drift(self, service: str, environment: str) -> Doc:
        """Look for drift now: `{"service", "environment", "drift": [{"instance", "kind", "where", "expected",
        "found"}], "checked"}`; `checked` is the number of instances looked at."""
        ...

    def metrics(self, service: str, environment: str, doc: Mapping[str, Any]) -> Doc:
        """Ask every source of metrics once: `{"metrics": [codec.dump(MetricRule), …] or null}`; null means those that
        the environment was deployed with.

        Returns: `{"service", "environment", "metrics": [{"metric", "form", "observe", "asked", "cohorts": {cohort:
        {"numbers", "counters", "trials"}}, "problem", "remedy"}]}`.
        """
        ...

    def logs(self, service: str, environment: str, *, instance: str | None, lines: int) -> Doc:
        """`{"logs": [{"instance", "fleet", "lines": […]}]}`, oldest line first; `instance` may be a unique prefix."""
        ...

    def history(self, service: str, environment: str, *, limit: int) -> Doc:
        """`{"history": [rollout view, …]}`, newest first."""
        ...

    def ledger(
        self, *, after: int, limit: int, service: str | None, environment: str | None, rollout: str | None
    ) -> Doc:
        """Entries with a sequence number above `after`, oldest first; `limit` 0 gives the head alone.

        Returns: `{"entries": [{"seq", "at_ms", "kind", "service", "environment", "rollout", "body", "previous",
        "hash"}], "head": {"seq", "hash"}}`, the fields of `ledger.ports.Entry`.
        """
        ...

    def verify(self, *, expect_head: str | None, progress: Callable[[int], None] = ...) -> Doc:
        """Recompute the chain: `{"entries": count, "head": hash, "faults": [{"seq", "problem"}]}`. `progress` is told
        now and then how many entries were read."""
        ...

    def leases(self) -> Doc:
        """Who leads what now: `{"leases": [{"environment": "SERVICE/ENV", "owner", "token", "reason", "since",
        "until"}]}`."""
        ...

    def quarantine(self) -> Doc:
        """`{"quarantine": [{"service", "environment", "revision", "release", "reason", "at"}]}`."""
        ...

    def quarantine_release(self, doc: Mapping[str, Any]) -> Doc:
        """A person lets one go: `{"service": … or null, "environment": … or null, "revision": unique prefix,
        "requested_by"}` gives the list that is left."""
        ...

    def revision(self, prefix: str, *, service: str | None) -> Doc:
        """The revision document whose digest starts with `prefix` (with or without `sha256:`):
        `codec.dump(Revision)` and `"digest"`."""
        ...

    def kept(self) -> Doc:
        """What must not be removed: `{"releases": [digest, …], "secrets": […], "instances": [id, …]}`."""
        ...
