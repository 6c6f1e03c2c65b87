"""Where users call an environment: what two of one home cannot both have."""

from __future__ import annotations

import pytest

from rebake.app.addresses import addresses, told
from rebake.spec.load import parse
from rebake.spec.plan import plan_for

FILE = """\
service: {service}
bake: {{builder: files, base: scratch, repository: registry.example/shop}}
run: {{command: [serve]}}
environments:
  production:
    platform: kubernetes
    strategy: canary
    kubernetes: {{context: eu, namespace: shop, gateway: {{name: public, hostnames: [shop.example]}}}}
"""
LOCAL = """\
service: {service}
bake: {{builder: files}}
run: {{command: [serve]}}
environments:
  production: {{platform: local, listen: "127.0.0.1:8080"}}
"""


def _of(text: str = FILE, was: str = "", now: str = "", service: str = "shop") -> frozenset[tuple[str | None, ...]]:
    filled = text.format(service=service)
    assert was in filled
    return addresses(plan_for(parse(filled.replace(was, now, 1)), "production"))


@pytest.mark.parametrize(
    ("was", "now", "shared"),
    [
        ("", "", True),
        ("[shop.example]", "[a.example, shop.example]", True),
        ("[shop.example]", "[a.example]", False),
        ("context: eu", "context: us", False),
        ("namespace: shop", "namespace: other", False),
        ("name: public", "name: private", False),
        ("name: public", "name: public, section: https", False),
    ],
)
def test_of_a_name_at_a_gateway_one_environment_is_called(was: str, now: str, shared: bool) -> None:
    assert bool(_of() & _of(was=was, now=now, service="other")) is shared


def test_without_host_names_the_listener_is_one_environments_alone() -> None:
    (both,) = _of(was=", hostnames: [shop.example]") & _of(was=", hostnames: [shop.example]", service="other")
    assert told(both) == "every name at the gateway public"


def test_a_port_of_this_machine_is_one_environments_alone() -> None:
    (both,) = _of(LOCAL) & _of(LOCAL, service="other")
    assert told(both) == "127.0.0.1:8080"
    assert not _of(LOCAL) & _of(LOCAL, "8080", "8081", "other")
