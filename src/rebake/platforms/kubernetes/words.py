"""What the cluster's events say of pods that do not serve, and of fleets that get none: asked for seldom."""

from __future__ import annotations

import threading
from collections.abc import Callable

from rebake.kubernetes.clusters import ClusterLink
from rebake.kubernetes.resources import EVENTS, Json
from rebake.platforms.kubernetes.reasons import Refusal, brings_a_node, last_refusal, last_word

OFTEN_SECONDS = 5.0
_KEPT = 1000


class Words:
    """Safe from several threads. Args: now: seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._said: dict[str, tuple[str | None, float]] = {}
        self._refusals: dict[str, Refusal] = {}
        self._patient: set[str] = set()
        self._wanted: dict[str, None] = {}
        self._lock = threading.Lock()

    def of(self, item: Json) -> str | None:
        """The last word; asked for anew where it is old."""
        uid = str(item["metadata"]["uid"])
        with self._lock:
            text, at = self._said.get(uid, (None, float("-inf")))
            if not 0 <= self._now() - at < OFTEN_SECONDS:
                self._wanted[uid] = None
            return text

    def refusal(self, item: Json) -> Refusal | None:
        """The last time that a controller was refused a pod for it, as far as that was asked for; see `of`."""
        self.of(item)
        return self._refusals.get(str(item["metadata"]["uid"]))

    def patient(self) -> set[str]:
        """Pods for which an autoscaler said that it brings a node."""
        with self._lock:
            return set(self._patient)

    def wanted(self) -> bool:
        return bool(self._wanted)

    def ask(self, link: ClusterLink, namespace: str, items: list[Json], path: str) -> bool:
        """Ask about those of these objects that somebody wants to know of. Returns: whether there is news.

        Raises: PlatformError.
        """
        news = False
        for item in items:
            uid = str(item["metadata"]["uid"])
            with self._lock:
                wanted = self._wanted.pop(uid, 0) is None
            if wanted:
                news = self._ask(link, namespace, item, path) or news
        return news

    def _ask(self, link: ClusterLink, namespace: str, item: Json, path: str) -> bool:
        name, uid = item["metadata"]["name"], str(item["metadata"]["uid"])
        chosen = f"involvedObject.name={name}"
        events, _ = link.client.find(EVENTS, namespace, fields=chosen)
        mine = [one for one in events if (one.get("involvedObject") or {}).get("uid") in (uid, None)]
        text, news = last_word(mine, path), False
        with self._lock:
            before = self._said.get(uid, (None, 0.0))[0]
            self._said[uid] = text, self._now()
            while len(self._said) > _KEPT:
                oldest = next(iter(self._said))
                del self._said[oldest]
                self._refusals.pop(oldest, None)
            if (refused := last_refusal(mine)) is not None:
                news = self._refusals.get(uid) != refused
                self._refusals[uid] = refused
            if brings_a_node(mine):
                self._patient.add(uid)
        return news or text != before
