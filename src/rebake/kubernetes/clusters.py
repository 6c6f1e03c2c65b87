"""The clusters that this program speaks to: one client for each kubeconfig and context, one watch for each kind and
namespace, shared by platform and route."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rebake.errors import Permanent
from rebake.kubernetes.informer import Heard, Informer
from rebake.kubernetes.resources import Kind
from rebake.kubernetes.settings import KubernetesSettings

if TYPE_CHECKING:
    from rebake.kubernetes.client import KubeClient


class ClusterLink:
    """One cluster, as one user.

    Attributes:
        key: kubeconfig and context that named it.
    """

    def __init__(self, key: tuple[str, str], client: KubeClient) -> None:
        self.key, self.client = key, client
        self._informers: dict[tuple[Kind, str], Informer] = {}
        self._lock = threading.Lock()
        self._heard: list[Heard] = []
        self._closed = False

    def namespace(self, settings: KubernetesSettings) -> str:
        """Where an environment is."""
        return settings.namespace or self.client.namespace

    def informer(self, kind: Kind, namespace: str) -> Informer:
        """The watch over everything of ours of one kind; begun by the first who asks. Raises: Permanent when closed."""
        with self._lock:
            if self._closed:
                raise Permanent("platform-closed", "the platform was closed", remedy="make another one")
            found = self._informers.get((kind, namespace))
            if found is None:
                found = self._informers[kind, namespace] = Informer(self.client, kind, namespace)
                for heard in self._heard:
                    found.listen(heard)
        found.start()
        return found

    def listen(self, heard: Heard) -> None:
        """Told of every change that any watch of this cluster sees, from now on."""
        with self._lock:
            self._heard.append(heard)
            informers = list(self._informers.values())
        for one in informers:
            one.listen(heard)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            informers = list(self._informers.values())
        for one in informers:
            one.close()
        self.client.close()


class Clusters:
    """Every cluster in use. Nothing is loaded or asked before one is.

    Args:
        environ: where `KUBECONFIG` is looked for.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = os.environ if environ is None else environ
        self._links: dict[tuple[str, str], ClusterLink] = {}
        self._lock = threading.Lock()
        self._heard: list[Heard] = []
        self._closed = False

    def link(self, settings: KubernetesSettings) -> ClusterLink:
        """The cluster of an environment. Raises: Permanent when there are no credentials for it."""
        from rebake.kubernetes.client import KubeClient
        from rebake.kubernetes.signin import sign_in

        key = (settings.kubeconfig or "", settings.context or "")
        with self._lock:
            if self._closed:
                raise Permanent("platform-closed", "the platform was closed", remedy="make another one")
            if key not in self._links:
                sign = sign_in(settings.kubeconfig, settings.context, self._environ)
                link = self._links[key] = ClusterLink(key, KubeClient(sign))
                for heard in self._heard:
                    link.listen(heard)
            return self._links[key]

    def listen(self, heard: Heard) -> None:
        """Told of every change in every cluster, from now on."""
        with self._lock:
            self._heard.append(heard)
            links = list(self._links.values())
        for link in links:
            link.listen(heard)

    def links(self) -> list[ClusterLink]:
        with self._lock:
            return list(self._links.values())

    def close(self) -> None:
        with self._lock:
            self._closed = True
            links, self._links = list(self._links.values()), {}
        for link in links:
            link.close()
