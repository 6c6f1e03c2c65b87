"""The records of a cluster's route: what a Prometheus server that watches the gateway says of users' requests.

Rules:
- Which weights were in force is what the route's status said, kept as periods in the cursor: a restarted reader knows
  them as well as the first one. What nobody watched is not judged.
- Everything is read up to a moment that lies a scrape behind, so that the same cursor gives the same requests again.
- A server that does not answer, or has no such series, is an error: nothing was seen, and the judge stays undecided.
- A reading is made beside the looks: no look waits for a server.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from rebake.core.clock import Clock
from rebake.errors import RebakeError, Transient
from rebake.kubernetes.settings import Traffic
from rebake.prometheus.api import Server
from rebake.traffic.kubernetes.counting import Period, Scraped, samples_in, scrape_seconds
from rebake.traffic.kubernetes.templates import Subject, queries_for
from rebake.traffic.ports import RouteObservation, Sample, Samples

USUAL_SCRAPE_SECONDS = 15.0
"""Until it is known how often the server scrapes."""
LEAST_SETTLE_SECONDS = 2.0
"""A scrape is in the server this long after it was made."""
LONGEST_SECONDS = 3600.0
"""Longer ago nothing is asked for."""
IDLE_SECONDS = 30.0
"""How often it is read while one fleet has all users, and nothing is compared."""
APART_SECONDS = 2.0
"""Clocks that differ by more than this cannot say which weights a request was dealt by."""
_KEPT = 200

Submit = Callable[[Callable[[], "Read"]], "Future[Read]"]


@dataclass(frozen=True, slots=True)
class Read:
    """Attributes: scrape_seconds: None where too few scrapes are known."""

    samples: tuple[Sample, ...]
    scrape_seconds: float | None


@dataclass(slots=True)
class Course:
    """Which weights were in force when, as far as it was seen; after `looked_at` nothing is known yet."""

    periods: list[Period] = field(default_factory=list)
    looked_at: float = 0.0

    def see(self, now: float, key: str, weights: Mapping[str, int] | None) -> None:
        """One look. `weights`: None while nobody knows them."""
        self.looked_at = now
        if weights is None:
            return
        last = self.periods[-1] if self.periods else None
        if last is not None and last.key == key:
            self.periods[-1] = Period(key, last.begin, now, weights)
        else:
            self.periods = [*self.periods, Period(key, now, now, dict(weights))][-_KEPT:]

    def merge(self, known: list[Period]) -> None:
        """Take over what an earlier reader saw."""
        ours = {one.key: one for one in self.periods}
        for one in known:
            mine = ours.get(one.key)
            ours[one.key] = (
                one
                if mine is None
                else Period(one.key, min(one.begin, mine.begin), max(one.end, mine.end), mine.weights)
            )
        self.periods = sorted(ours.values(), key=lambda one: one.begin)[-_KEPT:]


class Records:
    """The records of one environment.

    Args:
        submit: has a reading made beside the looks.
    """

    def __init__(self, clock: Clock, submit: Submit) -> None:
        self._clock, self._submit = clock, submit
        self._course = Course()
        self._scrape: float | None = None
        self._reading: tuple[float, float, Future[Read]] | None = None
        self._read_at = -LONGEST_SECONDS
        self._lock = threading.Lock()

    def see(self, route: RouteObservation | None, key: str) -> None:
        """What a look saw; `key` as of `counting.Period`."""
        known = route is not None and route.listening and not route.problem
        with self._lock:
            self._course.see(self._clock.now(), key, route.weights if known and route is not None else None)

    def read(self, traffic: Traffic, subjects: list[Subject], cursor: Mapping[str, Any] | None) -> Samples:
        """What finished since `cursor`, as far as it was read by now. A first cursor begins now.

        Raises: Transient, Permanent of the server; Transient `clocks-apart`, `series-missing`.
        """
        with self._lock:
            self._course.merge([Period(*one) for one in (cursor or {}).get("periods", ())])
            now = self._clock.now()
            since = max(float((cursor or {"to": now})["to"]), now - LONGEST_SECONDS)
            if self._reading is not None and self._reading[0] == since:
                return self._finished(since, now)
            until = min(now - max(LEAST_SETTLE_SECONDS, self._scrape or 0.0), self._course.looked_at)
            if now >= self._read_at + self._pace() and subjects and until > since:
                scrape, periods = self._scrape or USUAL_SCRAPE_SECONDS, list(self._course.periods)

                def read() -> Read:
                    _refuse_apart(traffic, self._clock)
                    return _read(traffic, subjects, periods, (since, until, now, scrape))

                self._reading = since, until, self._submit(read)
                return self._finished(since, now)
            return Samples((), self._cursor(since))

    def _finished(self, since: float, now: float) -> Samples:
        """The reading under way, if it has ended."""
        assert self._reading is not None
        _, until, future = self._reading
        if not future.done():
            return Samples((), self._cursor(since))
        self._reading = None
        self._read_at = now
        found = future.result()
        self._scrape = found.scrape_seconds or self._scrape
        return Samples(found.samples, self._cursor(until))

    def _pace(self) -> float:
        """How long after a reading the next one is due, by the weights of now: a shift is not read late because the
        last reading was an idle one."""
        last = self._course.periods[-1].weights if self._course.periods else {}
        shared = sum(1 for weight in last.values() if weight) > 1
        return max(1.0, (self._scrape or USUAL_SCRAPE_SECONDS) / 2) if shared else IDLE_SECONDS

    def _cursor(self, to: float) -> dict[str, Any]:
        self._course.periods = [one for one in self._course.periods if one.end >= to - LONGEST_SECONDS / 4]
        kept = [[one.key, one.begin, one.end, dict(one.weights)] for one in self._course.periods if one.end >= to]
        return {"to": to, "periods": kept or self._last()}

    def _last(self) -> list[Any]:
        one = self._course.periods[-1] if self._course.periods else None
        return [] if one is None else [[one.key, one.begin, one.end, dict(one.weights)]]


def _read(
    traffic: Traffic, subjects: list[Subject], periods: list[Period], times: tuple[float, float, float, float]
) -> Read:
    since, until, now, scrape = times
    server = Server(traffic.prometheus, traffic.timeout_ms, traffic.token_file)
    span = now - since + 3 * scrape
    fleets = {}
    for subject in subjects:
        queries = queries_for(traffic, subject)
        found = {query: server.matrix(f"{query}[{span:.0f}s]", now) for query in queries.all}
        fleets[subject.fleet] = Scraped(queries, found)
    if not any(one.of(one.queries.requests) for one in fleets.values()):
        raise _missing(traffic, next(iter(fleets.values())).queries.requests[0])
    return Read(samples_in(fleets, periods, since, until), scrape_seconds(fleets.values()))


def _refuse_apart(traffic: Traffic, clock: Clock) -> None:
    """Which weights were in force is known by our clock, when requests finished by the server's."""
    before = clock.now()
    theirs = Server(traffic.prometheus, traffic.timeout_ms, traffic.token_file).clock()
    after = clock.now()
    apart = max(before - theirs, theirs - after)
    if apart > APART_SECONDS:
        raise Transient(
            "clocks-apart",
            f"the clocks of this machine and of Prometheus at {traffic.prometheus} differ by {apart:.1f}s: which "
            "weights dealt a request cannot be told",
            where="kubernetes.traffic",
            remedy="let both machines take their time from one source (NTP)",
            retry_after_seconds=5.0,
        )


def _missing(traffic: Traffic, query: str) -> RebakeError:
    return Transient(
        "series-missing",
        f"Prometheus at {traffic.prometheus} has no series for {query}",
        where="kubernetes.traffic",
        remedy="see that it scrapes the gateway, and that kubernetes: traffic: from names that gateway",
        retry_after_seconds=5.0,
    )
