"""The traffic port: the route of an environment as wished and as read back. Weights are basis points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

from rebake.core.codec import dump
from rebake.core.digest import digest_of
from rebake.judge.samples import Arm, Pairs
from rebake.ledger.ports import Fence
from rebake.release.manifest import Health


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One instance that may receive requests."""

    instance: str
    address: str


@dataclass(frozen=True, slots=True)
class FleetRoute:
    """One fleet behind the route. Weight 0 means registered and watched by the balancer, without users.

    Attributes:
        called: how many of its endpoints, the first ones, get users, where shares are those of instances and the weight
            only says what they come to; None where requests are dealt by weight.
    """

    fleet: str
    endpoints: tuple[Endpoint, ...]
    weight_basis_points: int
    health: Health = Health()
    called: int | None = None


@dataclass(frozen=True, slots=True)
class Sticky:
    """Keep a caller on the cohort it met first. While the cookie lives, a larger candidate weight only moves keys
    from stable to candidate."""

    cookie: str = "rebake-cohort"
    ttl_seconds: int = 3600


@dataclass(frozen=True, slots=True)
class Mirror:
    """Send a copy of this share of the safe requests (GET, HEAD) to a fleet; its answers reach nobody."""

    fleet: str
    share_basis_points: int


@dataclass(frozen=True, slots=True)
class EnvironmentRoute:
    """The whole route of one environment, applied in one call.

    Attributes:
        listen: `HOST:PORT` users call.
        fleets: stable first, so that sticky keys move only one way. Weights sum to 10 000, or to 0 before the first
            promotion (then nothing listens).
        preview: fleet that requests with the header `x-rebake-preview: candidate` reach; not counted for the judge.
        shield: fleet whose failed requests the first fleet answers, where they may be sent twice (RFC 9110, 9.2.2:
            safe or idempotent) and nothing of them is lost; while both have weight. They stay failures of the fleet
            they were dealt to.
        answer_within_ms: a request that has no answer after this time counts as unanswered, while it goes on waiting.
    """

    service: str
    environment: str
    listen: str
    fleets: tuple[FleetRoute, ...] = ()
    preview: str | None = None
    mirror: Mirror | None = None
    sticky: Sticky | None = None
    shield: str | None = None
    answer_within_ms: int = 10_000

    @property
    def version(self) -> str:
        """Digest of the whole wish: what the balancer reports back once it serves it."""
        return _version(self)


@lru_cache(maxsize=1024)
def _version(route: EnvironmentRoute) -> str:
    """A rollout wishes for the very same route in look after look: that is looked up, not computed again."""
    return digest_of(dump(route))


@dataclass(frozen=True, slots=True)
class Counters:
    """Requests finished by one fleet since the edge counts (users' requests only: no previews, no mirrored copies).

    `errors` are answers with 5xx, and requests the fleet failed by connection (refused, reset, timed out), also those
    that a second try elsewhere then answered well.
    """

    requests: int = 0
    errors: int = 0


@dataclass(frozen=True, slots=True)
class RouteObservation:
    """The route as the balancer itself reports it.

    Attributes:
        version: of the `EnvironmentRoute` it serves, or None if it serves none or another one in part.
        weights: basis points by fleet, read back from the balancer's own configuration.
        healthy: by fleet, instances that the balancer itself found healthy.
        unhealthy: by fleet, instances it knows and does not send requests to.
        active: by fleet, requests in flight.
        counters: by fleet, cumulative within one `epoch`.
        epoch: changes whenever cumulative counters may have started again from zero.
        listening: the listener of `listen` is open.
        counts: it counts requests, also those in flight; where it does not, `active` and `counters` say nothing.
        problem: why the wish is not served, in the balancer's own words; empty when it is, or will be in a moment.
    """

    version: str | None
    weights: Mapping[str, int] = field(default_factory=dict)
    healthy: Mapping[str, frozenset[str]] = field(default_factory=dict)
    unhealthy: Mapping[str, frozenset[str]] = field(default_factory=dict)
    active: Mapping[str, int] = field(default_factory=dict)
    counters: Mapping[str, Counters] = field(default_factory=dict)
    epoch: str = ""
    listening: bool = False
    counts: bool = True
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """Users' requests that finished within one second and were dealt by one setting of the weights.

    Attributes:
        at: the second they finished in, since the epoch.
        weights: basis points by fleet that these very requests were dealt by, however late this is read.
        fleets: by fleet, what became of them. An answer with 5xx, one that broke off, and a request that the fleet
            failed by connection are failures, of the fleet they were dealt to, whoever answered them in the end (the
            `shielded` ones); a request whose caller left before the answer is none and is not counted, but stands in
            `latency` with the time it waited. One that has no answer within `answer_within_ms`, or whose caller left
            before any, is `unanswered`, at once and whatever becomes of it later. Previews and mirrored copies are not
            users'.
            For callers that stick the unit is the caller and the minute: one request, and one failure at most.
        pairs: by fleet that was given copies, what became of copies and of their originals, which the first fleet was
            given, once both are known. Where nobody will know, such as of a copy that was cut off by the router itself,
            there is no pair.
    """

    at: int
    weights: Mapping[str, int]
    fleets: Mapping[str, Arm]
    pairs: Mapping[str, Pairs] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Samples:
    """One reading of the balancer's records.

    Attributes:
        samples: oldest first; one second may come in several parts.
        cursor: where the next reading goes on; a JSON document that only the router understands.
        more: not everything that has finished is in yet: read on at once.
    """

    samples: tuple[Sample, ...]
    cursor: Mapping[str, Any]
    more: bool = False


class TrafficRouter(Protocol):
    """Moves traffic. Every call is idempotent and safe from several threads.

    Raises: Transient when the balancer cannot be reached now; Permanent `address-in-use` and the like; LedgerConflict
        `lease-lost` for a change with an older token than one before (`ledger.fencing`).
    """

    def apply(self, route: EnvironmentRoute, *, fence: Fence | None = None) -> None:
        """Hand the whole route over. Returns once it is handed over, not once it is served: read it back."""
        ...

    def observe(self, service: str, environment: str) -> RouteObservation | None:
        """What the balancer serves now; None when it knows nothing of the environment."""
        ...

    def remove(self, service: str, environment: str, *, fence: Fence | None = None) -> None:
        """Close the listener and forget the fleets."""
        ...

    def samples(self, service: str, environment: str, cursor: Mapping[str, Any] | None) -> Samples | None:
        """What became of users' requests since `cursor`; None where this route keeps no records.

        The records outlive whoever reads them: the same cursor gives the same requests again, and the cursors of one
        reading after the other give each request once, whoever was killed in between. None: all that is kept.
        """
        ...

    def forget_samples(self, service: str, environment: str, cursor: Mapping[str, Any]) -> None:
        """Nobody will ask for what lies before `cursor` any more."""
        ...
