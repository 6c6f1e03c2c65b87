"""How rebake calls and marks what it makes in a cluster. Pure.

A name is made of the service, the environment and digests, so that it is known before anything is asked. Names are at
most 63 characters, valid as DNS labels (RFC 1035, which Services need), and those of fleets short enough for what
controllers append to them. Source: Kubernetes, "Object Names and IDs"; "Labels and Selectors".
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

MANAGER = "rebake"
"""Our field manager: what is applied is owned under this name."""
MARK = "rebake.dev"
MANAGED = "app.kubernetes.io/managed-by"
NAME = "app.kubernetes.io/name"
SERVICE, ENVIRONMENT = f"{MARK}/service", f"{MARK}/environment"
FLEET, REVISION = f"{MARK}/fleet", f"{MARK}/revision"
INSTANCE = f"{MARK}/instance"
"""On a pod: the instance it was given to."""
SERVING = f"{MARK}/serving"
"""On a pod: `true` from its begin; `false` once the route has taken it out. Services select by it."""
USERS = f"{MARK}/users"
"""On a pod: the fleet with whose pods it shares one Service's users, from its begin its own."""
OURS = f"{MANAGED}={MANAGER}"
"""The selector of everything of ours."""
PORT = "http"
"""The name of the port at which a pod is called."""
_LONGEST, _FLEET_LONGEST = 63, 47


def bounded(text: str, longest: int = _LONGEST) -> str:
    """The text itself, or its beginning and a digest of the whole. Begins with a letter.

    >>> bounded("shop-production", 63), len(bounded("x" * 80, 63)), bounded("2go")
    ('shop-production', 63, 'r-2go')
    """
    text = text if text[:1].isalpha() else f"r-{text}"
    if len(text) <= longest:
        return text
    return f"{text[: longest - 9].rstrip('-')}-{_digest(text, 8)}"


def _digest(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def label_value(text: str) -> str:
    """A value that a label can hold: the text, or its beginning and a digest.

    >>> label_value("sha256:" + 64 * "a")[:12]
    'sha256-aaaaa'
    """
    plain = text.replace(":", "-")
    return plain if len(plain) <= _LONGEST else f"{plain[:46]}-{_digest(text, 16)}"


def environment_name(service: str, environment: str) -> str:
    """What belongs to the whole environment, such as the Service that users call."""
    return bounded(f"{service}-{environment}")


def fleet_name(service: str, environment: str, revision: str, fleet: str) -> str:
    """A fleet's Deployment and all that goes with it: named by its revision, and by the fleet, as one revision may be
    raised a second time while its first fleet still leaves."""
    tail = f"{revision.rpartition(':')[2][:8]}-{_digest(fleet, 5)}"
    return f"{bounded(f'{service}-{environment}', _FLEET_LONGEST - len(tail) - 1)}-{tail}"


def route_name(service: str, environment: str, fleet: str) -> str:
    """A fleet's Service, by which the route reaches it."""
    return f"{bounded(f'{service}-{environment}', _LONGEST - 9)}-{_digest(fleet, 8)}"


def lead_name(service: str, environment: str) -> str:
    """Where the newest token of the environment's engine stands."""
    return f"{bounded(f'{service}-{environment}', _LONGEST - 5)}-lead"


def users_service(service: str, environment: str, namespace: str | None) -> str:
    """Where users without a gateway call, within the cluster."""
    return ".".join(filter(None, [environment_name(service, environment), namespace])) + ":80"


def environment_labels(service: str, environment: str) -> dict[str, str]:
    """What everything of an environment bears."""
    return {MANAGED: MANAGER, NAME: service, SERVICE: service, ENVIRONMENT: environment}


def fleet_labels(service: str, environment: str, fleet: str) -> dict[str, str]:
    """By which the pods of one fleet are chosen: never changes, as a Deployment's selector cannot."""
    return {**environment_labels(service, environment), FLEET: label_value(fleet)}


def selector(labels: Mapping[str, str]) -> str:
    """`a=b,c=d`"""
    return ",".join(f"{name}={value}" for name, value in sorted(labels.items()))
