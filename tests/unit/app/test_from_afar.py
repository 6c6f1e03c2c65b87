"""What a caller from afar may have done for it, and what not; and releases that come from a repository."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.rollout.world import plan

from rebake.app.afar import refuse_of_this_machine
from rebake.app.releases import Releases
from rebake.app.secret_values import secret_versions
from rebake.core.home import Home
from rebake.errors import Refused, UsageError
from rebake.judge.metric_rules import CommandAsk, MetricRule, PrometheusAsk
from rebake.release.manifest import Health, RunContract
from rebake.release.store import Store
from rebake.rollout.plan import Plan
from rebake.testing.images import ImageReleases
from rebake.testing.simulated import MemoryLedger

REPOSITORY = "registry.example/team/shop"
AFAR: dict[str, Any] = {"from_afar": True}


def _plan(platform: str, *metrics: MetricRule) -> Plan:
    usual = plan()
    return replace(usual, platform=platform, judge=replace(usual.judge, metrics=metrics))


def test_nobody_from_afar_starts_processes_on_the_servers_machine() -> None:
    command = MetricRule("depth", CommandAsk(("./depth",)))
    refuse_of_this_machine(AFAR, _plan("docker"))
    refuse_of_this_machine({}, _plan("local", command))
    with pytest.raises(Refused) as process:
        refuse_of_this_machine(AFAR, _plan("local"))
    with pytest.raises(Refused) as program:
        refuse_of_this_machine(AFAR, _plan("docker", command))
    assert [refusal.value.code for refusal in (process, program)] == ["server-platform", "server-command"]
    assert program.value.where == "judge.metrics.depth"


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"kubeconfig": "/root/.kube/config"}, "kubeconfig"),
        ({"traffic": {"prometheus": "http://of.the.caller", "token_file": "/run/token"}}, "traffic.token_file"),
    ],
)
def test_nobody_from_afar_has_a_file_of_the_server_sent_somewhere(settings: dict[str, Any], where: str) -> None:
    asked = replace(_plan("kubernetes"), platform_settings=settings)
    refuse_of_this_machine({}, asked)
    with pytest.raises(Refused) as refusal:
        refuse_of_this_machine(AFAR, asked)
    assert (refusal.value.code, refusal.value.where) == ("server-file", f"environments.production.kubernetes.{where}")


def test_a_metrics_token_is_none_of_the_servers_files() -> None:
    metric = MetricRule("rate", PrometheusAsk("http://of.the.caller", query="up", token_file="/run/token"))
    refuse_of_this_machine({}, _plan("docker", metric))
    with pytest.raises(Refused) as refusal:
        refuse_of_this_machine(AFAR, _plan("docker", metric))
    assert (refusal.value.code, refusal.value.where) == ("server-file", "judge.metrics.rate.token_file")


class Vault:
    def remember(self, value: str) -> str:
        return f"kept {value}"


def test_nobody_from_afar_reads_a_file_of_the_server(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("the server's own\n")
    source = f"file:{path}"
    asked = {"secrets": {"TOKEN": source}}
    assert secret_versions(asked, Vault())["TOKEN"].version == "kept the server's own"
    with pytest.raises(UsageError) as refusal:
        secret_versions({**asked, **AFAR}, Vault())
    assert refusal.value.code == "secret-not-set"
    handed = secret_versions({**asked, **AFAR, "secret_values": {source: "the caller's"}}, Vault())
    assert handed["TOKEN"].version == "kept the caller's"
    assert handed["TOKEN"].source == source


class Warehouse:
    """A server's store, and a repository that has one release."""

    def __init__(self, folder: Path) -> None:
        self.home, self.ledger, self.pulled = Home(folder), MemoryLedger(), list[str]()
        run = RunContract(("run",), 8000, Health())
        self.digest = ImageReleases(folder / "elsewhere").add(run, {"app/run": "text"}).digest
        self.make: Callable[[], object] = lambda: ImageReleases(self.home.store).add(run, {"app/run": "text"})

    def releases(self) -> Releases:
        return Releases(self.home, Store(self.home.store), self.ledger, self._pull)

    def _pull(self, reference: str) -> None:
        self.pulled.append(reference)
        self.make()


def test_a_release_is_fetched_once_and_again_where_the_disk_is_empty(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    releases, whole = warehouse.releases(), f"{REPOSITORY}@{warehouse.digest}"
    with pytest.raises(UsageError, match="no release in this store"):
        releases.release(warehouse.digest)
    releases.fetch(warehouse.digest, REPOSITORY, 1.0)
    releases.fetch(warehouse.digest, REPOSITORY, 2.0)
    assert releases.release(warehouse.digest[:20]).digest == warehouse.digest
    assert warehouse.pulled == [whole]
    warehouse.home = Home(tmp_path / "another")
    assert warehouse.releases().release(warehouse.digest).digest == warehouse.digest
    assert warehouse.pulled == [whole, whole]


@pytest.mark.parametrize("repository", ["", "UPPER/CASE", "a b"])
def test_a_repository_that_is_none_is_refused_before_anything_is_asked(tmp_path: Path, repository: str) -> None:
    warehouse = Warehouse(tmp_path)
    with pytest.raises(UsageError) as refusal:
        warehouse.releases().fetch(warehouse.digest, repository, 1.0)
    assert refusal.value.code == "wrong-reference"
    assert warehouse.pulled == []
