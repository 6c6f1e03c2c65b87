"""What there is of one kind in one namespace, kept up to date by one watch: whoever looks reads memory, not the API.

Rules:
- List, then watch from the list's version; bookmarks move the version on, so that a break rarely costs a new list.
- A version that was forgotten (410) costs a new list. After any other failure it waits, longer each time and with
  chance in it, so that many engines do not come back at the same moment.
- What we wrote ourselves is seen at once (`wrote`, `removed`), and an older state that still comes by the watch does
  not undo it. Versions of one kind grow. Source: Kubernetes, "Resource Version", comparing versions.
- While nobody answers, what was known stays known; after `STALE_SECONDS` of that, who asks is told.

Source: Kubernetes, "Efficient detection of changes"; client-go `tools/cache/reflector.go`.
"""

from __future__ import annotations

import logging
import random
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

from rebake.errors import Permanent, PlatformError, Transient
from rebake.kubernetes.faults import Expired
from rebake.kubernetes.names import ENVIRONMENT, OURS, SERVICE
from rebake.kubernetes.resources import Json, Kind

STALE_SECONDS = 15.0
SYNC_SECONDS = 10.0
"""How long somebody who asks first waits for the first list."""
WATCH_SECONDS = (300.0, 600.0)
_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.2, 30.0
_GONE = 1000
"""Deletions that are remembered, so that a late event brings nothing back."""
_LOG = logging.getLogger(__name__)

Place = tuple[str, str]
"""Service and environment, as labels say them."""
Heard = Callable[[Kind, Json], None]
"""Told of every object that was added, changed or removed; on the informer's thread, so it returns at once."""


class Source(Protocol):
    """As much of a client as an informer needs."""

    def find(self, kind: Kind, namespace: str, selector: str = "", fields: str = "", /) -> tuple[list[Json], str]: ...

    def watch(
        self, kind: Kind, namespace: str, selector: str, version: str, seconds: float, /
    ) -> AbstractContextManager[Iterator[Json]]: ...


class Informer:
    """Objects are shared with every caller: they are read, never changed.

    Args:
        selector: which of them; by default all that are managed by rebake.
    """

    def __init__(self, source: Source, kind: Kind, namespace: str, selector: str = OURS) -> None:
        self.kind, self.namespace, self._selector = kind, namespace, selector
        self._source = source
        self._heard: list[Heard] = []
        self._items: dict[str, Json] = {}
        self._places: dict[Place, set[str]] = defaultdict(set)
        self._gone: dict[str, int] = {}  # by uid, the version at which it went
        self._lock = threading.RLock()
        self._synced, self._tried, self._over = threading.Event(), threading.Event(), threading.Event()
        self._error: PlatformError | None = None
        self._down_since: float | None = None
        self._version = ""  # of the newest list or event
        name = f"rebake-watch-{kind.plural}-{namespace}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._started = False

    def start(self) -> None:
        with self._lock:
            if not self._started and not self._over.is_set():
                self._started = True
                self._thread.start()

    def close(self) -> None:
        """Ends with the next event, or with its client's connections."""
        self._over.set()
        self._synced.set()
        self._tried.set()

    def listen(self, heard: Heard) -> None:
        with self._lock:
            self._heard.append(heard)

    # Reading.

    def fresh(self) -> None:
        """Return once there is something to read. Raises: PlatformError when nobody answers, or did not for a while."""
        self.start()
        self._tried.wait(SYNC_SECONDS)
        lasting = isinstance(self._error, Permanent)  # such as a kind of object that the cluster does not have
        if not self._synced.wait(0.0 if lasting else SYNC_SECONDS):
            raise self._error or Transient("kubernetes-slow", f"no list of {self.kind.resource} yet")
        since = self._down_since
        if self._error is not None and since is not None and time.monotonic() - since >= STALE_SECONDS:
            raise self._error

    def get(self, name: str) -> Json | None:
        with self._lock:
            return self._items.get(name)

    def of(self, service: str, environment: str) -> list[Json]:
        """By name."""
        with self._lock:
            return [self._items[name] for name in sorted(self._places.get((service, environment), ()))]

    def all(self) -> list[Json]:
        with self._lock:
            return list(self._items.values())

    # Our own writes.

    def wrote(self, item: Json) -> None:
        """What the server answered to a write of ours."""
        self._put(_trim(item))

    def removed(self, item: Json) -> None:
        """The server said that it is gone."""
        self._drop(item["metadata"], sys.maxsize)

    # The watch.

    def _run(self) -> None:
        pause = _PAUSE_SECONDS
        while not self._over.is_set():
            try:
                if not self._version:
                    self._list()
                self._follow()
                pause = _PAUSE_SECONDS
                continue
            except Expired:
                self._version = ""
                continue
            except PlatformError as error:
                self._failed(error)
            except Exception as error:
                if self._over.is_set():
                    return
                _LOG.exception("watching %s in %s", self.kind.resource, self.namespace)
                self._failed(Transient("kubernetes-watch", f"the watch failed: {error!r}"))
            self._over.wait(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    def _failed(self, error: PlatformError) -> None:
        """Note it, for whoever asks. What is no mere break may have taken more with it: then all is listed again."""
        if self._down_since is None:
            self._down_since = time.monotonic()
        self._error = error
        self._tried.set()
        if error.code != "kubernetes-unreachable":
            self._version = ""

    def _well(self) -> None:
        self._error = self._down_since = None

    def _list(self) -> None:
        items, version = self._source.find(self.kind, self.namespace, self._selector)
        at, present = _number(version), set()
        for item in items:
            trimmed = _trim(item)
            present.add(trimmed["metadata"]["name"])
            self._put(trimmed)
        with self._lock:
            lost = [
                one["metadata"]
                for name, one in self._items.items()
                if name not in present and _number(one["metadata"]["resourceVersion"]) <= at
            ]
        for metadata in lost:
            self._drop(metadata, at)
        self._version = version
        self._well()
        self._synced.set()
        self._tried.set()

    def _follow(self) -> None:
        """Read one watch to its end. The version moves on with each event, so that a break loses none."""
        seconds = random.uniform(*WATCH_SECONDS)
        with self._source.watch(self.kind, self.namespace, self._selector, self._version, seconds) as events:
            self._well()
            for event in events:
                if self._over.is_set():
                    return
                item: Json = event["object"]
                version = str(item["metadata"]["resourceVersion"])
                if event["type"] == "DELETED":
                    self._drop(item["metadata"], _number(version))
                elif event["type"] != "BOOKMARK":
                    self._put(_trim(item))
                self._version = version

    # What is known.

    def _put(self, item: Json) -> None:
        metadata = item["metadata"]
        name, uid = metadata["name"], metadata["uid"]
        with self._lock:
            known, version = self._items.get(name), _number(metadata["resourceVersion"])
            if version <= self._gone.get(uid, -1):
                return
            if known is not None and version <= _number(known["metadata"]["resourceVersion"]):
                return
            self._items[name] = item
            self._places[_place(known or item)].discard(name)
            self._places[_place(item)].add(name)
        self._tell(item)

    def _drop(self, metadata: Json, at: int) -> None:
        name, uid = metadata["name"], metadata["uid"]
        with self._lock:
            self._gone[uid] = at
            while len(self._gone) > _GONE:
                del self._gone[next(iter(self._gone))]
            known = self._items.get(name)
            if known is None or known["metadata"]["uid"] != uid:
                return
            del self._items[name]
            place = self._places[_place(known)]
            place.discard(name)
            if not place:
                del self._places[_place(known)]
        self._tell(known)

    def _tell(self, item: Json) -> None:
        for heard in self._heard:
            heard(self.kind, item)


def _place(item: Json) -> Place:
    labels = item["metadata"].get("labels") or {}
    return labels.get(SERVICE, ""), labels.get(ENVIRONMENT, "")


def _number(version: Any) -> int:
    return int(version) if str(version).isdigit() else 0


def _trim(item: Json) -> Json:
    """Without who manages which field, which is the half of many objects; with each word in memory once."""
    metadata = {name: value for name, value in item["metadata"].items() if name != "managedFields"}
    trimmed: Json = _shared({**item, "metadata": metadata})
    return trimmed


def _shared(value: Any) -> Any:
    if isinstance(value, dict):
        return {sys.intern(name): _shared(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_shared(inner) for inner in value]
    return sys.intern(value) if type(value) is str and len(value) < 80 else value
