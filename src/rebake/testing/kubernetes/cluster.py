"""One emulated cluster: an API server on loopback, controllers that a test moves on, and a clock that it holds."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rebake.testing.kubernetes import resources as kinds
from rebake.testing.kubernetes.access import ADMIN_TOKEN, Access
from rebake.testing.kubernetes.admission import Admission
from rebake.testing.kubernetes.api import Answer, Api, Asked, Request
from rebake.testing.kubernetes.certificates import Identity, server_context
from rebake.testing.kubernetes.controllers.deployments import Deployments
from rebake.testing.kubernetes.controllers.garbage import Garbage, Namespaces
from rebake.testing.kubernetes.controllers.gateway import CLASS, CONTROLLER, GatewayController
from rebake.testing.kubernetes.controllers.gateway_plane import EmulatedPlane
from rebake.testing.kubernetes.controllers.kubelet import Behaviour, Kubelet
from rebake.testing.kubernetes.controllers.replicasets import ReplicaSets
from rebake.testing.kubernetes.controllers.services import Budgets, EndpointSlices
from rebake.testing.kubernetes.controllers.statefulsets import StatefulSets
from rebake.testing.kubernetes.controllers.targets import Targets
from rebake.testing.kubernetes.controllers.world import Controller, World
from rebake.testing.kubernetes.deletion import Deleter
from rebake.testing.kubernetes.faults import Faults
from rebake.testing.kubernetes.server import Server
from rebake.testing.kubernetes.status import Json
from rebake.testing.kubernetes.store import Store
from rebake.testing.kubernetes.wishes import Options, Place
from rebake.testing.kubernetes.writer import Writer
from rebake.testing.simulated import ManualClock

_ROUNDS = 500
"""More steps than any change needs to come to rest; a world that still moves then never will."""
_TICK_SECONDS = 0.02


class Cluster:
    """A cluster for one test. Used as a context: its server ends with it.

    Nothing happens by itself: `step`, `settle` and `advance` move the controllers on, `in_real_time` does it all along.

    Args:
        gateway: whether the Gateway API is installed.
        certificate: speak TLS with it, and accept the client certificates that it signed.
    Attributes:
        url: where the API answers.
        faults: mistakes of the API server, to be ordered.
        webhooks: admission webhooks by name: each says why it refuses an object, or nothing.
        gateway: the data plane of Gateways, which tells what share of the requests each backend gets.
        targets: what the data plane knows of endpoints, and how late.
    """

    def __init__(
        self, *, gateway: bool = True, certificate: Identity | None = None, clock: ManualClock | None = None
    ) -> None:
        self.clock = clock or ManualClock()
        self.store = Store()
        self.faults = Faults(self.store)
        self._admission = Admission(self.store)
        self.webhooks = self._admission.webhooks
        self._writer = Writer(self.store, self._admission, self.clock.now)
        deleter = Deleter(self.store, self._writer)
        self._access = Access(self.store)
        served = [*kinds.BUILT_IN, kinds.SELF_REVIEWS, *(kinds.GATEWAY_API if gateway else ())]
        self._api = Api(self.store, self._writer, deleter, self._access, self.faults, self.clock.now, served)
        self._world = World(self.store, self._writer, deleter, self.clock.now, self._api.logs)
        self._kubelet = Kubelet(self._world)
        self._api.ask_pod = self._kubelet.answer
        self.targets = Targets(self._world, self._kubelet.accepts)
        self.gateway = EmulatedPlane(self._world, self.targets)
        self._controllers: tuple[Controller, ...] = (
            Namespaces(self._world),
            Garbage(self._world),
            Deployments(self._world),
            StatefulSets(self._world),
            ReplicaSets(self._world),
            self._kubelet,
            EndpointSlices(self._world),
            Budgets(self._world),
            self.targets,
            GatewayController(self._world, self.gateway),
        )
        self._rested = -1  # the version at which nothing moved any more
        for name in ("default", "kube-system"):
            self._world.create(kinds.NAMESPACES, "", {"metadata": {"name": name}})
        if gateway:
            class_ = {"metadata": {"name": CLASS}, "spec": {"controllerName": CONTROLLER}}
            self._world.create(kinds.GATEWAY_CLASSES, "", class_)
        self.settle()
        self._certificate = certificate
        self._tls = server_context(certificate) if certificate else None
        self._server = Server(self._api, self._tls)
        self.url = self._server.url

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Raises: RuntimeError where a request found a defect of the emulator itself, which answered 500."""
        self._server.close()
        if self._api.defects:
            raise RuntimeError("the emulated API server has a defect") from self._api.defects[0]

    @property
    def asked(self) -> list[Asked]:
        """Every request that was answered, in order."""
        return self._api.asked

    @property
    def defects(self) -> list[Exception]:
        """Of the emulator itself."""
        return self._api.defects

    def answer(self, request: Request) -> Answer:
        """Answer a request without a socket between."""
        return self._api.answer(request)

    def step(self) -> bool:
        """Let each controller do one step; whether anything was written."""
        with self.store.changed:
            before = self.store.version
            self._world.wakes.clear()
            for one in self._controllers:
                one.step()
            return self.store.version != before

    def settle(self) -> None:
        """Step until nothing more happens without time. Raises: RuntimeError if that never comes."""
        for _ in range(_ROUNDS):
            if not self.step():
                self._rested = self.store.version
                return
        raise RuntimeError(f"the controllers do not come to rest within {_ROUNDS} steps")

    def advance(self, seconds: float) -> None:
        """Let time pass: everything that is due on the way happens at its time."""
        end = self.clock.now() + seconds
        self.settle()
        while (due := min((one for one in self._world.wakes if one <= end), default=None)) is not None:
            self._move_to(due)
        self._move_to(end)

    def _move_to(self, at: float) -> None:
        with self.store.changed:
            self.clock.advance(max(0.0, at - self.clock.now()))
            self.store.changed.notify_all()
        self.settle()

    def _tick(self, seconds: float) -> None:
        """The same as `advance`, and cheap where nothing was written and nothing is due."""
        at = self.clock.now() + seconds
        if self.store.version == self._rested and not any(one <= at for one in self._world.wakes):
            with self.store.changed:
                self.clock.advance(seconds)
                self.store.changed.notify_all()
        else:
            self.advance(seconds)

    @contextmanager
    def in_real_time(self, speed: float = 1.0) -> Iterator[None]:
        """Within it time passes by itself, `speed` times as fast as on a wall clock.

        For programs that wait on their own. What fails in a controller is raised at the end.
        """
        over, failed = threading.Event(), list[BaseException]()

        def run() -> None:
            pause = _TICK_SECONDS
            try:
                while not over.wait(pause):
                    began = time.perf_counter()
                    self._tick(pause * speed)
                    # Controllers hold the store while they work: requests get as much of it, however much there is.
                    pause = max(_TICK_SECONDS, time.perf_counter() - began)
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
        if failed:
            raise failed[0]

    def behave(self, which: str | Callable[[Json], bool], behaviour: Behaviour) -> None:
        """From now on pods behave so: those with a container whose image holds this text, or that are chosen."""
        if callable(which):
            chooses = which
        else:
            text = which

            def chooses(pod: Json) -> bool:
                return any(text in one["image"] for one in pod["spec"]["containers"])

        with self.store.changed:
            self._kubelet.behave(chooses, behaviour)
            self._rested = -1

    def crash(self, namespace: str, pod: str, code: int = 1, *lines: str) -> None:
        """End a running pod's containers, which write these lines last."""
        with self.store.changed:
            self._kubelet.crash(self._writer.current(Place(kinds.PODS, namespace, pod)), code, *lines)

    def write_log(self, namespace: str, pod: str, *lines: str, container: str = "") -> None:
        """Let a running container write."""
        with self.store.changed:
            item = self._writer.current(Place(kinds.PODS, namespace, pod))
            name = container or item["spec"]["containers"][0]["name"]
            self._api.logs[item["metadata"]["uid"], name].lines.extend(lines)

    def autoscale(self, namespace: str, deployment: str, replicas: int) -> None:
        """Change a deployment's size as its autoscaler does, who manages the number from then on."""
        with self.store.changed:
            at = Place(kinds.DEPLOYMENTS, namespace, deployment, "scale")
            item = self._writer.current(at)
            after = {**item, "spec": {**item["spec"], "replicas": replicas}}
            self._writer.update(at, after, Options("kube-controller-manager", system=True))

    @contextmanager
    def api_server_away(self) -> Iterator[None]:
        """Within it nobody answers at the URL and every connection is broken; pods and controllers go on."""
        self._server.close()
        with socket.socket() as place:  # keeps the port for us, and refuses connections
            place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            place.bind(("127.0.0.1", self._server.port))
            try:
                yield
            finally:
                place.close()
                self._server = Server(self._api, self._tls, self._server.port)

    def forget_history(self) -> None:
        """As compaction does: watches and pages that begin before now answer 410."""
        self.store.forget()

    def token_of(self, namespace: str, service_account: str) -> str:
        """A bearer token of a service account, which may do what its roles allow."""
        return self._access.add_service_account(namespace, service_account)

    def kubeconfig(
        self, *, namespace: str = "default", token: str = ADMIN_TOKEN, client: Identity | None = None
    ) -> Json:
        """How to reach it: as its administrator, with another token, or with a client's certificate."""
        cluster: dict[str, Any] = {"server": self.url}
        if self._certificate is not None:
            cluster["certificate-authority"] = str(self._certificate.file)
        user = {"token": token}
        if client is not None:
            user = {"client-certificate": str(client.file), "client-key": str(client.key)}
        context = {"cluster": "emulated", "user": "user", "namespace": namespace}
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "emulated",
            "clusters": [{"name": "emulated", "cluster": cluster}],
            "users": [{"name": "user", "user": user}],
            "contexts": [{"name": "emulated", "context": context}],
        }

    def write_kubeconfig(self, path: Path, **how: Any) -> Path:
        """The same as a file, for `KUBECONFIG`. JSON is YAML, which every client reads."""
        path.write_text(json.dumps(self.kubeconfig(**how)))
        path.chmod(0o600)
        return path
