"""What every platform must do. A test module of an adapter subclasses this and gives the fixture `bench`.

Nothing here waits for a fixed time: conditions are polled until a deadline.
"""

from __future__ import annotations

import http.client
import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

import pytest

from rebake.errors import LedgerConflict, Permanent
from rebake.ledger.ports import Fence
from rebake.platforms.model import Instance, InstanceSpec
from rebake.platforms.ports import Platform
from rebake.release.manifest import Release, Revision

DEADLINE_SECONDS = 20.0
_POLL_SECONDS = 0.01
T = TypeVar("T")


class PlatformBench(Protocol):
    """What the suite needs of an adapter's test module.

    Releases made here serve `GET /healthz` with 200 and `GET /` with the marker, and write `serving MARKER` to their
    log once they listen.
    """

    @property
    def platform(self) -> Platform: ...

    def again(self) -> Platform:
        """Another object over the same world, as a restarted agent makes it."""
        ...

    def release(self, marker: str) -> Release: ...

    def sick_release(self) -> Release:
        """Listens, and answers 500 to its health check."""
        ...

    def short_lived_release(self) -> Release:
        """Writes `cannot start` and exits with code 3."""
        ...

    def damaged_release(self) -> Release:
        """Its stored bytes do not match its digest."""
        ...

    def crash(self, instance: Instance) -> None:
        """End the instance behind the platform's back."""
        ...

    def get(self, instance: Instance, path: str = "/") -> tuple[int, str]:
        """Ask one instance, past any route: status and body. Raises: ConnectionRefusedError when nobody is there."""
        ...


@dataclass
class Fleet:
    """Launches and finds instances of one environment."""

    bench: PlatformBench
    service: str = "shop"
    environment: str = "production"
    _number: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def spec(self, release: Release, fleet: str = "f1") -> InstanceSpec:
        revision = Revision(self.service, self.environment, release.digest).digest
        name = f"{self.service}-{self.environment}-{next(self._number)}"
        return InstanceSpec(name, self.service, self.environment, fleet, revision, release.digest, release.run)

    def all(self, platform: Platform | None = None) -> Sequence[Instance]:
        return (platform or self.bench.platform).observe(self.service, self.environment)

    def one(self, instance: str, platform: Platform | None = None) -> Instance | None:
        return next((i for i in self.all(platform) if i.id == instance), None)

    def launched(self, release: Release) -> Instance:
        """Launch one instance and wait until it is healthy."""
        self.bench.platform.prepare(release, lambda _: None)
        spec = self.spec(release)
        self.bench.platform.launch(spec)
        return self.until(spec.id, lambda i: i.healthy is True)

    def until(self, instance: str, holds: Callable[[Instance], bool], platform: Platform | None = None) -> Instance:
        def look() -> Instance | None:
            found = self.one(instance, platform)
            return found if found is not None and holds(found) else None

        return eventually(look, lambda: f"{instance}: {self.one(instance, platform)}")

    def gone(self, instance: str, grace_ms: int = 5000, platform: Platform | None = None) -> None:
        """Retire until it is gone."""

        def retired() -> bool:
            (platform or self.bench.platform).retire(instance, grace_ms)
            return self.one(instance, platform) is None

        eventually(retired, lambda: f"{instance} is still there: {self.one(instance, platform)}")


def eventually(look: Callable[[], T | None], otherwise: Callable[[], str]) -> T:
    """Poll until `look` gives something true. Fails with what `otherwise` says."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(_POLL_SECONDS)
    pytest.fail(f"not within {DEADLINE_SECONDS:g}s: {otherwise()}")


def get(instance: Instance, path: str = "/") -> tuple[int, str]:
    """Ask one instance of this machine directly."""
    assert instance.address is not None
    connection = http.client.HTTPConnection(instance.address, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


class PlatformConformance:
    """Prepare, launch, observe, retire, logs and inspect, seen through the port."""

    @pytest.fixture
    def bench(self) -> PlatformBench:
        """Overridden by the adapter's test module."""
        raise NotImplementedError

    @pytest.fixture
    def fleet(self, bench: PlatformBench) -> Fleet:
        return Fleet(bench)

    def test_an_environment_nobody_launched_in_is_empty(self, fleet: Fleet) -> None:
        assert list(fleet.all()) == []
        assert list(fleet.bench.platform.inspect("nobody", "nowhere")) == []

    def test_a_launched_instance_becomes_healthy_and_serves_the_release(self, fleet: Fleet) -> None:
        instance = fleet.launched(fleet.bench.release("blue"))
        assert (instance.state, instance.was_healthy, instance.exit, instance.detail) == ("running", True, None, None)
        assert instance.started_at > 0
        assert fleet.bench.get(instance) == (200, "blue")

    def test_preparing_twice_is_the_same_as_once(self, fleet: Fleet) -> None:
        release = fleet.bench.release("twice")
        fleet.bench.platform.prepare(release, lambda _: None)
        fleet.bench.platform.prepare(release, lambda _: None)
        assert fleet.bench.get(fleet.launched(release)) == (200, "twice")

    def test_a_release_is_prepared_from_several_threads_at_once(self, fleet: Fleet) -> None:
        release = fleet.bench.release("threads")
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: fleet.bench.platform.prepare(release, lambda _: None), range(4)))
        assert fleet.bench.get(fleet.launched(release)) == (200, "threads")

    def test_a_damaged_release_is_refused_by_name(self, fleet: Fleet) -> None:
        with pytest.raises(Permanent) as refusal:
            fleet.bench.platform.prepare(fleet.bench.damaged_release(), lambda _: None)
        assert refusal.value.code == "release-damaged"
        assert refusal.value.remedy

    def test_an_unprepared_release_can_be_launched(self, fleet: Fleet) -> None:
        spec = fleet.spec(fleet.bench.release("unprepared"))
        fleet.bench.platform.launch(spec)
        assert fleet.bench.get(fleet.until(spec.id, lambda i: i.healthy is True)) == (200, "unprepared")

    def test_launching_the_same_id_twice_starts_it_once(self, fleet: Fleet) -> None:
        spec = fleet.spec(fleet.bench.release("once"))
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: fleet.bench.platform.launch(spec), range(4)))
        first = fleet.until(spec.id, lambda i: i.healthy is True)
        fleet.bench.platform.launch(spec)
        assert [(i.id, i.address, i.started_at, i.pid) for i in fleet.all()] == [
            (first.id, first.address, first.started_at, first.pid)
        ]
        assert [i.drift for i in fleet.bench.platform.inspect("shop", "production")] == [()]

    def test_launching_an_id_that_has_exited_does_not_start_it_again(self, fleet: Fleet) -> None:
        spec = fleet.spec(fleet.bench.short_lived_release())
        fleet.bench.platform.launch(spec)
        exited = fleet.until(spec.id, lambda i: i.state == "exited")
        fleet.bench.platform.launch(spec)
        assert fleet.one(spec.id) == exited

    def test_an_effect_that_comes_after_one_with_a_newer_token_is_refused(self, fleet: Fleet) -> None:
        """An engine that stood still decides nothing any more; the same token, and none, go on."""
        platform, key = fleet.bench.platform, "shop/production"
        first, late = fleet.spec(fleet.bench.release("led")), fleet.spec(fleet.bench.release("late"))
        platform.launch(first, fence=Fence(key, 7))
        serving = fleet.until(first.id, lambda i: i.healthy is True)
        with pytest.raises(LedgerConflict, match="token 6"):
            platform.launch(late, fence=Fence(key, 6))
        with pytest.raises(LedgerConflict, match="token 6"):
            platform.retire(first.id, 0, fence=Fence(key, 6))
        assert [(i.id, i.pid, i.state) for i in fleet.all()] == [(first.id, serving.pid, "running")]
        platform.launch(late, fence=Fence(key, 7))
        platform.launch(fleet.spec(fleet.bench.release("elsewhere")), fence=Fence("shop/staging", 1))
        assert late.id in {i.id for i in fleet.all()}

    def test_an_instance_that_exits_says_how_and_why(self, fleet: Fleet) -> None:
        spec = fleet.spec(fleet.bench.short_lived_release())
        fleet.bench.platform.launch(spec)
        exited = fleet.until(spec.id, lambda i: i.state == "exited")
        assert exited.exit == "exit 3"
        assert exited.healthy is False
        assert any("cannot start" in line for line in fleet.bench.platform.logs(spec.id, 20))

    def test_an_instance_that_was_ended_from_outside_is_seen_as_exited(self, fleet: Fleet) -> None:
        instance = fleet.launched(fleet.bench.release("victim"))
        fleet.bench.crash(instance)
        exited = fleet.until(instance.id, lambda i: i.state == "exited")
        assert exited.exit
        assert exited.was_healthy

    def test_a_sick_instance_never_counts_as_healthy_and_says_why(self, fleet: Fleet) -> None:
        release = fleet.bench.sick_release()
        spec = fleet.spec(release)
        spec = replace(spec, run=replace(spec.run, health=replace(spec.run.health, start_timeout_ms=300)))
        fleet.bench.platform.launch(spec)
        said = "not healthy within 300ms: last: GET /healthz answered 500"
        sick = fleet.until(spec.id, lambda i: i.detail == said)
        assert (sick.state, sick.healthy, sick.was_healthy) == ("starting", False, False)

    def test_two_instances_have_two_addresses(self, fleet: Fleet) -> None:
        release = fleet.bench.release("pair")
        assert fleet.launched(release).address != fleet.launched(release).address

    def test_environments_do_not_see_each_other(self, fleet: Fleet) -> None:
        fleet.launched(fleet.bench.release("apart"))
        assert list(fleet.bench.platform.observe("shop", "staging")) == []

    def test_a_restarted_agent_adopts_what_runs(self, fleet: Fleet) -> None:
        instance = fleet.launched(fleet.bench.release("adopted"))
        second = fleet.bench.again()
        adopted = fleet.until(instance.id, lambda i: i.healthy is True, second)
        assert (adopted.address, adopted.state, adopted.was_healthy, adopted.pid) == (
            instance.address,
            "running",
            True,
            instance.pid,
        )
        fleet.gone(instance.id, platform=second)
        eventually(lambda: fleet.one(instance.id) is None, lambda: f"the first still sees {instance.id}")

    def test_retiring_ends_the_instance_and_its_address(self, fleet: Fleet) -> None:
        instance = fleet.launched(fleet.bench.release("retired"))
        fleet.gone(instance.id)
        with pytest.raises(ConnectionRefusedError):
            fleet.bench.get(instance)

    def test_retiring_says_stopping_and_can_be_repeated(self, fleet: Fleet) -> None:
        instance = fleet.launched(fleet.bench.release("repeated"))
        fleet.bench.platform.retire(instance.id, 5000)
        seen = fleet.one(instance.id)
        assert seen is None or seen.state in ("stopping", "exited")
        fleet.gone(instance.id)
        fleet.bench.platform.retire(instance.id, 5000)
        assert fleet.one(instance.id) is None

    def test_retiring_what_never_was_does_nothing(self, fleet: Fleet) -> None:
        fleet.bench.platform.retire("never-was", 0)
        assert list(fleet.all()) == []

    def test_logs_are_readable_while_it_runs_and_after_it_is_gone(self, fleet: Fleet) -> None:
        instance = fleet.launched(fleet.bench.release("logged"))
        assert "serving logged" in fleet.bench.platform.logs(instance.id, 5)
        fleet.gone(instance.id)
        assert "serving logged" in fleet.bench.platform.logs(instance.id, 5)
        assert list(fleet.bench.platform.logs(instance.id, 0)) == []

    def test_an_untouched_instance_has_no_drift(self, fleet: Fleet) -> None:
        fleet.launched(fleet.bench.release("clean"))
        assert [i.drift for i in fleet.bench.platform.inspect("shop", "production")] == [()]
