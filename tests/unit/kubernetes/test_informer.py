"""The watch in memory: follows, survives breaks and forgotten versions, never goes back behind our own writes."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from rebake.errors import Permanent, Transient
from rebake.kubernetes import informer as room
from rebake.kubernetes.client import KubeClient
from rebake.kubernetes.faults import Expired
from rebake.kubernetes.informer import Informer
from rebake.kubernetes.names import ENVIRONMENT, MANAGED, MANAGER, SERVICE
from rebake.kubernetes.resources import CONFIG_MAPS, Json, Kind
from rebake.testing.kubernetes import Cluster, Fault, Gate

_DEADLINE_SECONDS = 20.0


def _map(name: str, value: str = "1", environment: str = "production") -> Json:
    labels = {MANAGED: MANAGER, SERVICE: "shop", ENVIRONMENT: environment}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "labels": labels},
        "data": {"value": value},
    }


def _until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "not in time"
        threading.Event().wait(0.01)


@pytest.fixture
def informer(client: KubeClient) -> Iterator[Informer]:
    made = Informer(client, CONFIG_MAPS, "default")
    yield made
    made.close()


def _values(informer: Informer) -> dict[str, str]:
    return {one["metadata"]["name"]: one["data"]["value"] for one in informer.of("shop", "production")}


def _known(informer: Informer, name: str) -> bool:
    return name in _values(informer)


def _asked(cluster: Cluster, verb: str) -> int:
    return sum(one.attempt.verb == verb for one in cluster.asked)


def test_it_lists_and_follows_and_tells(cluster: Cluster, client: KubeClient, informer: Informer) -> None:
    heard: list[tuple[str, str]] = []
    informer.listen(lambda kind, item: heard.append((kind.plural, item["metadata"]["name"])))
    client.create(CONFIG_MAPS, "default", _map("first"))
    client.create(CONFIG_MAPS, "default", {**_map("foreign"), "metadata": {"name": "foreign"}})
    informer.fresh()
    assert _values(informer) == {"first": "1"}
    client.create(CONFIG_MAPS, "default", _map("second"))
    client.apply(CONFIG_MAPS, "default", _map("first", "2"))
    client.create(CONFIG_MAPS, "default", _map("elsewhere", environment="staging"))
    _until(lambda: _values(informer) == {"first": "2", "second": "1"})
    _until(lambda: len(informer.of("shop", "staging")) == 1)
    client.delete(CONFIG_MAPS, "default", "first")
    _until(lambda: _values(informer) == {"second": "1"})
    assert ("configmaps", "first") in heard
    assert "managedFields" not in informer.all()[0]["metadata"]
    assert _asked(cluster, "list") == 1


def test_a_watch_that_breaks_goes_on_where_it_was(cluster: Cluster, client: KubeClient, informer: Informer) -> None:
    informer.fresh()
    for name in ("a", "b", "c"):
        cluster.faults.cut_watches()
        client.create(CONFIG_MAPS, "default", _map(name))
        _until(partial(_known, informer, name))
    assert _asked(cluster, "list") == 1


def test_a_version_that_was_forgotten_costs_one_list(cluster: Cluster, client: KubeClient, informer: Informer) -> None:
    client.create(CONFIG_MAPS, "default", _map("goes"))
    informer.fresh()
    gate = Gate()
    cluster.faults.add(Fault(verb="watch", gate=gate, passes=True))
    cluster.faults.cut_watches()
    gate.wait_for_request()  # the next watch stands before the server, with the old version
    client.delete(CONFIG_MAPS, "default", "goes")
    client.create(CONFIG_MAPS, "default", _map("comes"))
    cluster.forget_history()
    gate.open()
    _until(lambda: _values(informer) == {"comes": "1"})
    assert _asked(cluster, "list") == 2


class Scripted:
    """A server whose lists and events a test says one by one."""

    def __init__(self) -> None:
        self.lists: queue.Queue[tuple[list[Json], str] | Exception] = queue.Queue()
        self.events: queue.Queue[Json | Exception | None] = queue.Queue()
        self.from_versions: list[str] = []

    def find(self, kind: Kind, namespace: str, selector: str = "", fields: str = "", /) -> tuple[list[Json], str]:
        found = self.lists.get(timeout=_DEADLINE_SECONDS)
        if isinstance(found, Exception):
            raise found
        return found

    @contextlib.contextmanager
    def watch(
        self, kind: Kind, namespace: str, selector: str, version: str, seconds: float, /
    ) -> Iterator[Iterator[Json]]:
        self.from_versions.append(version)

        def events() -> Iterator[Json]:
            while (event := self.events.get(timeout=_DEADLINE_SECONDS)) is not None:
                if isinstance(event, Exception):
                    raise event
                yield event

        yield events()


def _at(version: int, value: str = "1", uid: str = "u1") -> Json:
    item = _map("one", value)
    return {**item, "metadata": {**item["metadata"], "uid": uid, "resourceVersion": str(version)}}


@pytest.fixture
def scripted() -> Iterator[tuple[Scripted, Informer]]:
    source = Scripted()
    made = Informer(source, CONFIG_MAPS, "default")
    yield source, made
    made.close()
    source.events.put(None)
    source.lists.put(([], "1"))


def test_a_late_event_does_not_undo_our_own_write(scripted: tuple[Scripted, Informer]) -> None:
    source, informer = scripted
    source.lists.put(([_at(5, "old")], "5"))
    informer.fresh()
    informer.wrote(_at(9, "ours"))
    source.events.put({"type": "MODIFIED", "object": _at(7, "older")})
    source.events.put({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "8"}}})
    source.events.put(None)
    _until(lambda: source.from_versions == ["5", "8"])
    assert _values(informer) == {"one": "ours"}


def test_what_we_deleted_does_not_come_back_and_its_namesake_does(scripted: tuple[Scripted, Informer]) -> None:
    source, informer = scripted
    source.lists.put(([_at(5)], "5"))
    informer.fresh()
    informer.removed(_at(5))
    source.events.put({"type": "MODIFIED", "object": _at(6)})
    source.events.put({"type": "DELETED", "object": _at(7)})
    source.events.put(None)
    _until(lambda: len(source.from_versions) == 2)
    assert _values(informer) == {}
    source.events.put({"type": "ADDED", "object": _at(8, "new", "u2")})
    _until(lambda: _values(informer) == {"one": "new"})


def test_a_new_list_removes_what_is_gone_but_not_what_was_just_written(scripted: tuple[Scripted, Informer]) -> None:
    source, informer = scripted
    source.lists.put(([_at(5)], "5"))
    informer.fresh()
    written = _at(12, uid="u9")
    informer.wrote({**written, "metadata": {**written["metadata"], "name": "just"}})
    source.lists.put(([], "11"))
    source.events.put(Expired("kubernetes-expired", "too old"))
    _until(lambda: list(_values(informer)) == ["just"])


def test_who_asks_is_told_when_nobody_answered_for_a_while(
    scripted: tuple[Scripted, Informer], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, informer = scripted
    source.lists.put(Transient("kubernetes-unreachable", "away"))
    source.lists.put(([_at(5)], "5"))
    informer.fresh()
    source.events.put(Permanent("kubernetes-forbidden", "cannot watch"))
    source.lists.put(Permanent("kubernetes-forbidden", "cannot list"))
    monkeypatch.setattr(room, "STALE_SECONDS", 0.0)

    def told() -> bool:
        try:
            informer.fresh()
        except Permanent as error:
            return error.code == "kubernetes-forbidden"
        return False

    _until(told)
    assert _values(informer) == {"one": "1"}
    monkeypatch.setattr(room, "STALE_SECONDS", 60.0)
    informer.fresh()


def test_the_first_who_asks_is_told_why_there_is_no_list(
    scripted: tuple[Scripted, Informer], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, informer = scripted
    monkeypatch.setattr(room, "SYNC_SECONDS", 0.3)
    source.lists.put(Permanent("kubernetes-forbidden", "cannot list"))
    with pytest.raises(Permanent, match="cannot list"):
        informer.fresh()
