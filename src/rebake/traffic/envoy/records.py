"""One line for each user's request, as Envoy writes it and as it is counted. Pure.

Every line carries the weights that dealt its request (they are the name of the route that matched), so that it does
not matter how late it is read. Columns, separated by tabs, the ones that callers choose last:

    second, weights, cluster, instance, status, flags, microseconds, milliseconds, tries, fleet that answered, kind,
    limit in milliseconds, id of the request, caller, method, path without query

A request has a line of its own when it has no answer after the limit, or one without an end, so that a fleet that hangs
is seen while it hangs; Envoy looks at each request once in that time. It has another one when it has ended.

What is judged is the first try: the fleet that a request was dealt to failed it when another try had to answer it, or
another fleet did. That is so for every fleet, whether it is shielded or not. A try that was hedged because it had no
answer in time has failed nothing: it was unanswered, which its own line says.

A copy of a request has a line of its own, in the same file, with its own cluster; it is no user's request, and is
counted only beside its original (`copies`). The name of the original's route says after a `+` that there may be a copy.

The microseconds run from the request's first byte to the last byte of the instance's answer: not until a slow caller
has fetched it. Where the answer has no end the milliseconds say how long the caller waited. The caller stands there
only where callers stick.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any
from urllib.parse import quote, unquote

from rebake.judge.samples import LATENCY_BUCKETS, Arm
from rebake.traffic.endpoints import Endpoints, fold
from rebake.traffic.envoy import names
from rebake.traffic.envoy.callers import MINUTE, Callers
from rebake.traffic.envoy.copies import Event, Half, Pairing, Word
from rebake.traffic.ports import EnvironmentRoute, Sample, Sticky

Document = dict[str, Any]

_COLUMNS = (
    "%EMIT_TIME(%s)%",
    "%ROUTE_NAME%",
    "%UPSTREAM_CLUSTER_RAW%",
    "%UPSTREAM_HOST%",
    "%RESPONSE_CODE%",
    "%RESPONSE_FLAGS%",
    "%COMMON_DURATION(DS_RX_BEG:US_RX_END:us)%",
    "%DURATION%",
    "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "%UPSTREAM_METADATA(rebake:fleet)%",
    "%ACCESS_LOG_TYPE%",
)
_ASKED = ("%REQ(:METHOD):16%", "%PATH(NQ:PATH):256%")
_ID = "%REQ(X-REQUEST-ID):64%"
_WIDTH = len(_COLUMNS) + 3 + len(_ASKED)
_BROKEN = frozenset({"UF", "UC", "UT", "UH", "UO", "UR", "LR", "URX", "UPE", "UMSDR", "NC", "DF"})
"""The fleet did not answer, or broke off in the middle. Source: Envoy, "Access logging", %RESPONSE_FLAGS%."""
_LEFT = frozenset({"DC", "DR"})
"""The caller left before the end of the answer."""
_CUT_OFF = b"UMSDR"
"""Only copies have a longest duration: nobody waits for them."""
_UPGRADED, _NOT_MODIFIED = 101, 304
_STILL_OPEN = b"DownstreamPeriodic"
_BUCKETS_PER_NAT = 1.0 / math.log(1.05)
_MOST_TARGETS = 8192


def dealt_by(route: EnvironmentRoute) -> str:
    """The name of the users' routes: their weights, to be found again in each line.

    Nothing in it splits a line: fleets are quoted.
    """
    return ",".join(f"{quote(f.fleet, safe='')}:{f.weight_basis_points}" for f in route.fleets if f.weight_basis_points)


def copied_by(route: EnvironmentRoute) -> str:
    """The same for requests of which a copy is sent to another fleet."""
    assert route.mirror is not None
    return f"{dealt_by(route)}+{quote(route.mirror.fleet, safe='')}"


def weights_of(name: str) -> dict[str, int] | None:
    """The weights behind a route's name; None when it is none of users' routes."""
    found = {}
    for part in name.partition("+")[0].split(","):
        fleet, colon, points = part.rpartition(":")
        if not colon or not points.isdigit():
            return None
        found[unquote(fleet)] = int(points)
    return found


def served_by(fleet: str) -> Document:
    """What an instance carries, so that a line says which fleet answered."""
    return {"filter_metadata": {"rebake": {"fleet": quote(fleet, safe="")}}}


def access_log(path: str, route: EnvironmentRoute) -> Document:
    """Envoy's access log of one environment."""
    caller = "-" if route.sticky is None else f"%DYNAMIC_METADATA(rebake:caller):64%/{_ID}"
    line = "\t".join((*_COLUMNS, str(route.answer_within_ms), _ID, caller, *_ASKED)) + "\n"
    kind = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog"
    log_format = {"text_format_source": {"inline_string": line}}
    config = {"@type": kind, "path": path, "log_format": log_format}
    return {"name": "records", "filter": _worth_a_line(route.answer_within_ms), "typed_config": config}


def access_log_options(route: EnvironmentRoute) -> Document:
    """How often Envoy looks at what has not ended."""
    milliseconds = route.answer_within_ms
    return {"access_log_flush_interval": f"{milliseconds // 1000}.{milliseconds % 1000:03d}s"}


def _worth_a_line(limit_ms: int) -> Document:
    """What has ended, and what has not at the first look; not each look at an open stream of events."""
    ended = {"log_type_filter": {"types": ["DownstreamEnd"]}}
    looked_at = {"log_type_filter": {"types": ["DownstreamPeriodic"]}}
    first = {"duration_filter": {"comparison": _compare("LE", limit_ms + limit_ms // 2, "rebake.first_look")}}
    return {"or_filter": {"filters": [ended, {"and_filter": {"filters": [looked_at, first]}}]}}


def _compare(operator: str, value: int, name: str) -> Document:
    return {"op": operator, "value": {"default_value": value, "runtime_key": name}}


def callers(sticky: Sticky | None) -> list[Document]:
    """The filters that let `access_log` see who calls, where callers stick: by our cookie alone, not by all cookies."""
    if sticky is None:
        return []
    kind = "type.googleapis.com/envoy.extensions.filters.http.header_to_metadata.v3.Config"
    found = {"metadata_namespace": "rebake", "key": "caller", "type": "STRING"}
    rule = {"cookie": sticky.cookie, "on_header_present": found}
    return [{"name": "callers", "typed_config": {"@type": kind, "request_rules": [rule]}}]


def bucket(microseconds: int) -> int:
    """The latency bucket: number i ends at 1.05**i milliseconds. Source: `judge.samples.LATENCY_BUCKETS`."""
    if microseconds <= 1000:
        return 0
    return min(math.ceil(math.log(microseconds / 1000.0) * _BUCKETS_PER_NAT - 1e-9), LATENCY_BUCKETS - 1)


def _ended(status: int, flags: bytes) -> tuple[bool, bool]:
    """Whether the last try failed; else whether the caller left before its end."""
    if flags == b"-":
        return status >= 500, False
    words = flags.decode("ascii", "replace").split(",")
    if not _BROKEN.isdisjoint(words):
        return True, False
    left = not _LEFT.isdisjoint(words)
    return status >= 500 and not left, left


def _word(status: int, failed: bool, left: bool) -> Word:
    """What became of a request that has ended. Who left in the middle of an answer had one."""
    if failed:
        return "failed"
    if left:
        return _without_end(status)
    if _is_redirect(status):
        return "redirected"
    return "refused" if 400 <= status < 500 else "good"


def _without_end(status: int) -> Event:
    """What a request is that has no whole answer: not one, or the beginning of one."""
    return "unfinished" if status else "unanswered"


def _is_redirect(status: int) -> bool:
    """Who has the thing already (304) is sent nowhere."""
    return 300 <= status < 400 and status != _NOT_MODIFIED


@dataclass(slots=True)
class _Count:
    """What is added up to an `Arm`."""

    n: int = 0
    errors: int = 0
    shielded: int = 0
    refused: int = 0
    unanswered: int = 0
    redirected: int = 0
    unfinished: int = 0
    endpoints: dict[str, list[int]] = field(default_factory=dict)
    latency: list[int] = field(default_factory=list)
    instances: dict[str, _Count] = field(default_factory=dict)

    def add(self, endpoint: str, failed: bool) -> None:
        self.n += 1
        self.errors += failed
        pair = self.endpoints.get(endpoint)
        if pair is None:
            pair = self.endpoints[endpoint] = [0, 0]
        pair[0] += 1
        pair[1] += failed

    def ends_not(self, status: int, counts: bool) -> None:
        """A request without a whole answer; upgraded ones (WebSockets) have none."""
        self.unanswered += counts and not status
        self.unfinished += counts and status not in (0, _UPGRADED)

    def time(self, place: int) -> None:
        if not self.latency:
            self.latency = [0] * LATENCY_BUCKETS
        self.latency[place] += 1

    def of(self, instance: str) -> _Count:
        found = self.instances.get(instance)
        if found is None:
            found = self.instances[instance] = _Count()
        return found

    def arm(self) -> Arm:
        return Arm(
            self.n,
            self.errors,
            {name: (n, errors) for name, (n, errors) in self.endpoints.items()},
            tuple(self.latency),
            {name: count.arm() for name, count in self.instances.items()},
            shielded=self.shielded,
            refused=self.refused,
            unanswered=self.unanswered,
            redirected=self.redirected,
            unfinished=self.unfinished,
        )


class Tally:
    """Adds lines up to samples.

    Args:
        prefix: what the clusters of this environment begin with; the rest of their name is the fleet.
        endpoints: which are told apart.
    """

    def __init__(self, prefix: str, endpoints: Endpoints) -> None:
        self.endpoints = endpoints
        self.callers = Callers()
        self.pairing = Pairing()
        self._prefix = prefix.encode()
        self._counts: dict[tuple[bytes, bytes], dict[str, _Count]] = {}
        self._fleets: dict[bytes, str | None] = {}
        self._servers: dict[str, bytes] = {}
        self._targets: dict[tuple[bytes, bytes], str] = {}

    def add(self, lines: Iterable[bytes], *, silent: bool = False) -> None:
        """Count whole lines. One that is not ours (somebody wrote into the file) is passed over.

        Args:
            silent: they were counted before: only who called in this minute, and what waits for its other half, is
                learnt.
        """
        for line in lines:
            columns = line.split(b"\t", _WIDTH - 1)
            if len(columns) != _WIDTH:
                continue
            try:
                if (fleet := self._fleet(columns[2])) is not None:
                    self._one(columns, fleet, silent)
                elif (fleet := self._copies_fleet(columns[2])) is not None:
                    self._copy(columns, fleet, silent)
            except ValueError:
                continue

    def take(self) -> tuple[Sample, ...]:
        """The samples added up so far, oldest first; counting begins anew."""
        found, pairs = [], self.pairing.take()
        for second, name in sorted({**self._counts, **pairs}, key=itemgetter(0)):  # within one, as they were met
            weights = weights_of(name.decode("ascii", "replace"))
            if weights is not None:
                counts = self._counts.get((second, name), {})
                arms = {fleet: count.arm() for fleet, count in counts.items()}
                found.append(Sample(int(second), weights, arms, pairs.get((second, name), {})))
        self._counts = {}
        return tuple(found)

    def _one(self, columns: list[bytes], fleet: str, silent: bool) -> None:
        second, route, _, host, code, flags, micros, millis, tries, server, kind, limit, _, *asked = columns
        caller, method, path = asked
        status, at = int(code), int(second)
        name, copied, _ = route.partition(b"+")
        if kind == _STILL_OPEN:
            if copied and status != _UPGRADED:
                endpoint = self.endpoints.name(self._target(method, path), status, at)
                self._half(columns, _without_end(status), name, endpoint, silent)
            if caller == b"-" or self.callers.counts(at // MINUTE, fleet, caller, True):
                self._count(second, name, fleet).ends_not(status, not silent)
            return
        failed, left = _ended(status, flags)
        late = int(millis) >= int(limit)
        again = not late and (int(tries) > 1 or server not in (b"-", self._quoted(fleet)))
        counts = failed or again or not left
        endpoint = (
            self.endpoints.name(self._target(method, path), status, at) if copied or (counts and not silent) else ""
        )
        if copied:
            self._half(columns, _word(status, failed or again, left), name, endpoint, silent)
        if caller != b"-" and counts and not self.callers.counts(at // MINUTE, fleet, caller, failed or again):
            return
        if silent:
            return
        count = self._count(second, name, fleet)
        others = again or int(tries) > 1
        parts = [count] if others else [count, count.of(host.decode("ascii", "replace"))]
        count.ends_not(status, left and not late)  # else it has been counted
        if counts:
            count.refused += 400 <= status < 500
            count.redirected += _is_redirect(status)
            count.add(endpoint, failed or again)
            count.shielded += again and not failed and not left
            for part in parts[1:]:
                part.n += 1
                part.errors += failed
        if not (failed or again) and status != _UPGRADED:
            place = bucket(int(millis) * 1000 if micros == b"-" else int(micros))
            for part in parts:
                part.time(place)

    def _half(self, columns: list[bytes], word: Word, name: bytes, endpoint: str, silent: bool) -> None:
        """A request of which there may be a copy."""
        second, limit, request = columns[0], columns[11], columns[12]
        half = Half(False, word, endpoint=endpoint, dealt=name)
        self.pairing.add(request, second, half, int(limit), silent=silent)

    def _copy(self, columns: list[bytes], fleet: str, silent: bool) -> None:
        """A copy. One that was cut off, as nobody waits for it, or with Envoy's own connection, says nothing more."""
        second, _, _, host, code, flags, _, _, _, _, kind, limit, request, *_ = columns
        status = int(code)
        failed, left = _ended(status, flags)
        if kind == _STILL_OPEN:
            word: Word = _without_end(status)
        elif flags == _CUT_OFF:
            word = "unanswered" if status >= 400 else "unfinished"
        elif left:
            return
        else:
            word = _word(status, failed, left)
        half = Half(True, word, fleet, host.decode("ascii", "replace"))
        self.pairing.add(request, second, half, int(limit), silent=silent)

    def _count(self, second: bytes, name: bytes, fleet: str) -> _Count:
        counts = self._counts.get((second, name))
        if counts is None:
            counts = self._counts[second, name] = {}
        count = counts.get(fleet)
        if count is None:
            count = counts[fleet] = _Count()
        return count

    def _fleet(self, cluster: bytes) -> str | None:
        """The fleet whose users' cluster this is; None for testers', copies' and other environments' clusters."""
        if cluster not in self._fleets:
            ours = cluster.startswith(self._prefix) and not cluster.endswith((b"~preview", b"~mirror", b"~copy"))
            fleet = cluster.removesuffix(names.SHIELD.encode())[len(self._prefix) :]
            self._fleets[cluster] = fleet.decode("utf-8", "replace") if ours else None
        return self._fleets[cluster]

    def _copies_fleet(self, cluster: bytes) -> str | None:
        """The fleet whose copies' cluster this is."""
        if not (cluster.startswith(self._prefix) and cluster.endswith(names.COPY.encode())):
            return None
        return cluster.removesuffix(names.COPY.encode())[len(self._prefix) :].decode("utf-8", "replace")

    def _quoted(self, fleet: str) -> bytes:
        found = self._servers.get(fleet)
        if found is None:
            found = self._servers[fleet] = quote(fleet, safe="").encode()
        return found

    def _target(self, method: bytes, path: bytes) -> str:
        key = (method, path)
        found = self._targets.get(key)
        if found is None:
            if len(self._targets) >= _MOST_TARGETS:
                self._targets.clear()
            found = fold(method.decode("ascii", "replace"), path.decode("utf-8", "replace"))
            self._targets[key] = found
        return found
