"""What a cluster costs: rebake's own share of a rollout, requests of an idle environment, memory of many.

The cluster is the emulated one, so what its own server takes is in the figures too; pods are ready as soon as they are
asked for, so that what is left of a rollout's time is rebake's. `python -m benchmarks.kubernetes MANY` measures many
environments in a process of its own.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from tests.clusters import Pods
from tests.servers import COMMAND

from rebake.core.clock import SystemClock
from rebake.core.codec import dump
from rebake.kubernetes import names
from rebake.ledger.database import open_ledger
from rebake.ledger.ports import Put
from rebake.release.manifest import Health, Revision, RunContract, Settings
from rebake.rollout.engine import Engine, Ports
from rebake.rollout.jobs import ThreadJobs
from rebake.rollout.loop import Loop
from rebake.rollout.plan import Plan, Strategy
from rebake.rollout.world import Command, Environment, Rollout
from rebake.testing.kubernetes import resources as kinds
from rebake.testing.kubernetes.special import is_ready
from rebake.testing.kubernetes.target import Target, target
from rebake.testing.registry_server import RegistryServer
from rebake.traffic.kubernetes.router import KubernetesRouter

Row = dict[str, Any]
SHARE_BAR, MEMORY_BAR_MIB, REQUESTS_BAR = 1.0, 512.0, 1.0
INSTANCES = 4


class Bench:
    """An engine over one namespace of the cluster, with its platform and router."""

    def __init__(self, pods: Pods) -> None:
        self.pods, self.clock = pods, SystemClock()
        self.ledger = open_ledger(pods.home.root / "state.db")
        platform = pods.platform
        self.router = KubernetesRouter(pods.clusters[0], pods, self.clock)
        self.jobs = ThreadJobs()
        ports = Ports(
            self.ledger,
            {"kubernetes": platform},
            {"kubernetes": self.router},
            self.jobs,
            self.clock,
            pods.releases.store.release,
            "bench",
        )
        self.engine = Engine(ports)
        self.loop = Loop(self.engine.tick, self.clock)
        self.engine.wake = self.loop.wake
        platform.on_change = self.router.on_change = self._changed
        self.number = 0

    def _changed(self, service: str, environment: str) -> None:
        self.loop.wake(f"{service}/{environment}")

    def deploy(self, plan: Plan, release: str) -> str:
        self.number += 1
        key, now = f"{plan.service}/{plan.environment}", self.clock.now()
        revision = Revision(plan.service, plan.environment, release, Settings({}))
        rollout = Rollout(f"r-{self.number:05}", "deploy", revision, plan, "bench", now)
        command = Command(f"c-{self.number:05}", "begin", "bench", now, rollout)
        self.ledger.commit([], [Put("command", f"{key}/{command.id}", dump(command))], at=now)
        self.loop.wake(key)
        return rollout.id

    def stable(self, key: str) -> str | None:
        found = self.engine.environment(key)
        return None if found.stable is None or found.rollout is not None else found.stable.id

    def serves(self, key: str, fleet: str) -> bool:
        return self.stable(key) == fleet

    def close(self) -> None:
        self.loop.close()
        self.jobs.close()
        self.router.close()
        self.ledger.close()


@contextmanager
def shore(folder: Path) -> Iterator[tuple[Target, Path, str]]:
    """A namespace with a gateway, a kubeconfig for it, and a registry; time passes by itself there."""
    with RegistryServer() as registry, target({}) as at:
        assert at.emulated is not None
        listener = {"name": "web", "port": 80, "protocol": "HTTP"}
        body = {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "Gateway",
            "metadata": {"name": "public"},
            "spec": {"gatewayClassName": "emulated", "listeners": [listener]},
        }
        at.client.post(at.of("gateway.networking.k8s.io/v1", "gateways"), json=body).raise_for_status()
        path = at.emulated.write_kubeconfig(folder / "kubeconfig", namespace=at.namespace)
        with at.emulated.in_real_time(20.0):
            yield at, path, f"{registry.host}/{at.namespace}"


def _plan(service: str, instances: int) -> Plan:
    run = RunContract(COMMAND, 8000, Health(interval_ms=1000), drain_ms=0)
    strategy = Strategy("all-at-once")
    return Plan(service, "production", "kubernetes", run, instances, f"{service}.example", strategy, soak_ms=0)


def _wait(condition: Callable[[], object], seconds: float = 600.0, pause: float = 0.001) -> float:
    """Look again and again, with pauses in between. Returns: when it became so, by the performance counter."""
    deadline = time.perf_counter() + seconds
    while not condition():
        assert time.perf_counter() < deadline, "not in time"
        time.sleep(pause)
    return time.perf_counter()


def _ready(at: Target, fleet: str) -> bool:
    """Whether every pod that the fleet asks for is ready, read without a request."""
    assert at.emulated is not None
    with at.emulated.store.changed:
        pods = at.emulated.store.all(kinds.PODS, at.namespace)
    mine = [one for one in pods if one["metadata"].get("labels", {}).get(names.FLEET) == fleet]
    return len(mine) == INSTANCES and all(is_ready(one) for one in mine)


def _shares(rounds: int) -> list[float]:
    """Seconds of each rollout in which nobody waited for pods to become ready."""
    found = []
    with tempfile.TemporaryDirectory() as folder, shore(Path(folder)) as (at, kubeconfig, repository):
        pods = Pods(Path(folder), at, kubeconfig, repository)
        pods.wished["gateway"] = {"name": "public", "namespace": at.namespace, "hostnames": ["shop.example"]}
        made = Bench(pods)
        made.ledger.commit([], [Put("environment", "shop/production", dump(Environment("shop", "production")))], at=1.0)
        made.loop.start([])
        try:
            for number in range(rounds):
                release = pods.release(f"release {number}").digest
                began = time.perf_counter()
                fleet = made.deploy(_plan("shop", INSTANCES), release)
                asked = _wait(partial(_asked, at, fleet))
                ready = _wait(partial(_ready, at, fleet))
                ended = _wait(partial(made.serves, "shop/production", fleet))
                found.append((asked - began) + (ended - ready))
                _wait(lambda: not made.engine.environment("shop/production").leaving)  # the former fleet is gone
        finally:
            made.close()
            pods.close()
    return found


def _asked(at: Target, fleet: str) -> bool:
    """Whether the fleet's workload is there, read without a request."""
    assert at.emulated is not None
    with at.emulated.store.changed:
        workloads = at.emulated.store.all(kinds.DEPLOYMENTS, at.namespace)
    return any(one["metadata"].get("labels", {}).get(names.FLEET) == fleet for one in workloads)


# --- many environments, in a process of its own


def many(folder: Path, kubeconfig: Path, repository: str, namespace: str, count: int) -> None:
    """Raise so many environments, say so, and how much memory that takes after a while of rest."""
    with httpx.Client() as client:
        pods = Pods(folder, Target(client, namespace), kubeconfig, repository)
        pods.wished |= {"gateway": {"name": "public", "namespace": namespace}, "instances": 1}
        made = Bench(pods)
        services = [f"service-{number:03}" for number in range(count)]
        for service in services:
            empty = Environment(service, "production")
            made.ledger.commit([], [Put("environment", empty.key, dump(empty))], at=1.0)
        made.loop.start([])
        for service in services:
            made.deploy(_plan(service, 1), pods.release(service, service=service).digest)
        # Each look reads the ledger: it takes the engine's time, so there are few of them.
        _wait(lambda: all(made.stable(f"{service}/production") for service in services), 1800.0, 0.5)
        print("raised", flush=True)
        sys.stdin.readline()
        print(json.dumps(_memory_mib()), flush=True)
        made.close()
        pods.close()


def _memory_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def _many(count: int, seconds: float) -> tuple[float, float]:
    """MiB of an engine with so many environments; requests of each in a minute of rest."""
    with tempfile.TemporaryDirectory() as folder, shore(Path(folder)) as (at, kubeconfig, repository):
        words = [sys.executable, "-m", "benchmarks.kubernetes", folder, kubeconfig, repository, at.namespace, count]
        child = subprocess.Popen([str(w) for w in words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdin is not None
        assert at.emulated is not None
        assert child.stdout.readline() == "raised\n"
        before = len(at.emulated.asked)
        time.sleep(seconds)
        asked = len(at.emulated.asked) - before
        child.stdin.write("\n")
        child.stdin.flush()
        memory = float(child.stdout.readline())
        child.wait(60)
        return memory, asked / count / (seconds / 60)


def _row(figure: str, value: float, unit: str, bar: float) -> Row:
    return {"figure": figure, "value": round(value, 4), "unit": unit, "peer": "", "ratio": None, "bar": bar} | {
        "ok": value <= bar
    }


def run(quick: bool = False) -> list[Row]:
    first, *shares = _shares(4 if quick else 11)
    rows = [
        _row("kubernetes: rebake's own share of a rollout, median", statistics.median(shares), "s", SHARE_BAR),
        _row("kubernetes: the same, the longest", max(shares), "s", SHARE_BAR),
        _row("kubernetes: the same, an agent's first: it signs in and begins its watches", first, "s", SHARE_BAR),
    ]
    for count in (20,) if quick else (20, 80, 500):
        memory, asked = _many(count, 10.0 if quick else 120.0)
        rows += [
            _row(f"kubernetes: memory of an engine with {count} environments", memory, "MiB", MEMORY_BAR_MIB),
            _row(f"kubernetes: requests of an idle one of {count} in a minute", asked, "", REQUESTS_BAR),
        ]
    return rows


if __name__ == "__main__":
    if len(sys.argv) > 2:
        many(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5]))
    else:
        print(json.dumps(run("--quick" in sys.argv), indent=1))
