"""Where users call an environment, so that no two of one home are called at the same place. Pure."""

from __future__ import annotations

from rebake.rollout.plan import Plan

Address = tuple[str | None, ...]
_EVERY_NAME = "*"


def addresses(plan: Plan) -> frozenset[Address]:
    """What nobody else may have: what it listens on, or its host names at a listener of a Gateway.

    A gateway sends all requests of a name to the older of two routes, and accepts both. The same name in another
    cluster, such as another region's, is another place.
    """
    settings = plan.platform_settings
    gateway = settings.get("gateway") if plan.platform == "kubernetes" else None
    if not gateway:
        return frozenset({(plan.listen,)} if plan.listen else ())
    cluster = settings.get("kubeconfig"), settings.get("context")
    listener = gateway.get("namespace") or settings.get("namespace"), gateway["name"], gateway.get("section")
    return frozenset((*cluster, *listener, name) for name in gateway.get("hostnames") or (_EVERY_NAME,))


def told(address: Address) -> str:
    """For people.

    >>> told(("127.0.0.1:8080",)), told((None, "eu", "infra", "public", None, "*"))
    ('127.0.0.1:8080', 'every name at the gateway public')
    """
    if len(address) == 1:
        return str(address[0])
    gateway, name = address[3], address[-1]
    return f"{'every name' if name == _EVERY_NAME else name} at the gateway {gateway}"
