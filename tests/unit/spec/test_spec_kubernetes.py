"""`platform: kubernetes`: what the file may say of a cluster, and what it cannot ask of it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from rebake.errors import SpecError
from rebake.kubernetes.settings import Autoscale, Gateway, Traffic, settings_from
from rebake.spec.load import parse
from rebake.spec.plan import plan_for

FILE = """\
service: shop
bake:
  builder: python
  base: python:3.12-slim
  repository: registry.example/shop
run:
  command: [python, -m, shop]
  resources: {cpu: 0.5}
environments:
  production:
    platform: kubernetes
    instances: 3
    strategy: canary
    kubernetes:
      gateway: {name: public, namespace: infra, section: https, hostnames: [shop.example]}
"""


def test_a_whole_block_reaches_the_adapter_as_it_is_written() -> None:
    block = """
      context: prod-eu
      kubeconfig: /etc/kube/config
      namespace: shop
      registry: registry.example/other
      pull_secret: registry
      kind: statefulset
      autoscale: {max: 10, cpu: 60%}
      service_account: shop
      user: 1000
      writable: [/var/cache]
      scratch: 64MiB
      labels: {team: shop, cost/centre: 12}
      traffic: {prometheus: "http://prometheus:9090", from: own, requests: $requests, errors: failed_total, timeout: 2s}
"""
    text = FILE.replace("\n      gateway", f"{block}      gateway")
    plan = plan_for(parse(text.replace("requests: $requests", "requests: shop_requests_total")), "production")
    settings = settings_from(plan.platform_settings)
    assert (settings.context, settings.kubeconfig, settings.namespace) == ("prod-eu", "/etc/kube/config", "shop")
    assert (settings.registry, settings.pull_secret, settings.kind) == (
        "registry.example/other",
        "registry",
        "statefulset",
    )
    assert settings.gateway == Gateway("public", "infra", "https", ("shop.example",))
    assert settings.autoscale == Autoscale(10, 6000)
    assert (settings.service_account, settings.user, settings.writable) == ("shop", 1000, ("/var/cache",))
    assert (settings.scratch_bytes, dict(settings.labels)) == (64 << 20, {"team": "shop", "cost/centre": "12"})
    own = Traffic("http://prometheus:9090", "own", "shop_requests_total", "failed_total", timeout_ms=2000)
    assert settings.traffic == own
    assert settings.instances == 3


def test_what_the_file_leaves_out_is_filled_in() -> None:
    plan = plan_for(parse(FILE.replace("section: https, ", "")), "production")
    settings = settings_from(plan.platform_settings)
    assert (settings.registry, settings.kind, settings.autoscale) == ("registry.example/shop", "deployment", None)
    assert (plan.listen, plan.routed, plan.shield) == ("shop.example", True, False)


def test_without_a_gateway_users_call_the_service() -> None:
    text = FILE.replace("strategy: canary", "strategy: blue-green")
    text = text[: text.index("      gateway")] + "      namespace: prod\n"
    assert plan_for(parse(text), "production").listen == "shop-production.prod:80"


def test_a_worker_on_a_cluster_has_no_route() -> None:
    text = FILE.replace("run:\n", "run:\n  kind: worker\n")
    text = text[: text.index("    kubernetes:\n      gateway")] + "    kubernetes: {namespace: prod}\n"
    plan = plan_for(parse(text), "production")
    assert (plan.listen, plan.kind) == ("", "worker")


@dataclass
class Case:
    code: str
    key: str
    was: str
    now: str
    says: str = ""


BY = "strategy: {canary: {steps: [25%, 50%]}}"
PODS = {"strategy: canary": BY, "gateway: {name: public, namespace: infra, section: https, hostnames: [shop.example]}":
        "canary_by: instances"}  # fmt: skip


def _by_pods(**changes: str) -> str:
    text = FILE
    for before, after in PODS.items():
        text = text.replace(before, after)
    for before, after in changes.items():
        text = text.replace(before.replace("_", " "), after)
    return text


def test_shares_of_pods_are_those_that_so_many_pods_have() -> None:
    plan = plan_for(parse(_by_pods().replace("[25%, 50%]", "[33%, 50%, 65%]")), "production")
    assert plan.strategy.steps == (3333, 5000, 6667)
    assert plan.strategy.by_instances
    assert plan.hold_back_basis_points == 2500, "one pod of stable's beside three"
    assert settings_from(plan.platform_settings).canary_by == "instances"
    plan = plan_for(parse(_by_pods().replace(BY, "strategy: {linear: {step: 25%}}")), "production")
    assert plan.strategy.steps == (2500, 5000, 7500)


@pytest.mark.parametrize(
    ("was", "now", "code", "key", "says"),
    [
        ("25%, 50%", "5%, 50%", "share-not-had", "strategy.canary.steps[0]",
         "expected a share that 3 instances can have (25%), found 5%"),
        ("25%, 50%", "50%, 52%", "share-not-had", "strategy.canary.steps[1]",
         "expected a share that 3 instances can have after 50% (60%), found 52%"),
        (BY, "strategy: canary", "share-not-had", "strategy", "expected steps with canary_by: instances"),
        (BY, "strategy: linear", "share-not-had", "strategy", "found 10%"),
        (BY, BY + "\n    hold_back: 10%", "share-not-had", "hold_back",
         "expected a share that 3 instances can have (25%), found 10%"),
        (BY, "strategy: blue-green", "key-does-nothing", "kubernetes.canary_by", "only with canary or linear"),
        ("canary_by: instances", "canary_by: instances\n      gateway: {name: public}", "key-does-nothing",
         "kubernetes.canary_by", "found both"),
        ("canary_by: instances", "canary_by: instances\n      autoscale: {max: 9}", "not-by-instances",
         "kubernetes.autoscale", "changes the pods"),
        ("canary_by: instances", 'canary_by: instances\n      traffic: {prometheus: "http://p:9090"}',
         "not-by-instances", "kubernetes.traffic", "tells no fleets apart"),
    ],
)  # fmt: skip
def test_what_pods_cannot_have_is_refused_with_what_they_can(
    was: str, now: str, code: str, key: str, says: str
) -> None:
    text = _by_pods()
    assert was in text
    with pytest.raises(SpecError) as refused:
        parse(text.replace(was, now))
    found = [(one.code, one.key, one.problem) for one in refused.value.mistakes]
    assert [(code, f"environments.production.{key}")] == [one[:2] for one in found], found
    assert says in found[0][2]


CASES = [
    Case("not-on-kubernetes", "listen", "instances: 3", "listen: 127.0.0.1:80", "the gateway's host name"),
    Case("not-on-kubernetes", "sticky", "instances: 3", "sticky: true", "keeps no callers together"),
    Case("not-on-kubernetes", "shield", "instances: 3", "shield: true", "asks no other fleet"),
    Case("registry-missing", "kubernetes", "  repository: registry.example/shop\n", "", "that the cluster's nodes"),
    Case("needs-a-gateway", "strategy", "gateway: {name: public, namespace: infra, section: https,"
         " hostnames: [shop.example]}", "namespace: prod", "with canary, found none"),
    Case("autoscale-needs-cpu", "kubernetes.autoscale", "  resources: {cpu: 0.5}\n", "", ""),
    Case("key-does-nothing", "kubernetes.traffic.errors", "      gateway",
         '      traffic: {prometheus: "http://p:9090", errors: e_total}\n      gateway', "only with from: own"),
    Case("missing-key", "kubernetes.traffic.requests", "      gateway",
         '      traffic: {prometheus: "http://p:9090", from: own, errors: e_total}\n      gateway', "query requests"),
    Case("missing-key", "kubernetes.traffic.errors", "      gateway",
         '      traffic: {prometheus: "http://p:9090", from: own, requests: r_total}\n      gateway', "query errors"),
    Case("not-on-kubernetes", "strategy", "strategy: canary", "strategy: shadow", "prove nothing"),
    Case("not-on-kubernetes", "strategy", "strategy: canary", "strategy: {canary: {mirror: {share: 10%, for: 1m}}}",
         "found canary with them"),
    Case("wrong-hostname", "kubernetes.gateway.hostnames[0]", "[shop.example]", "[Shop.Example]", "a host name"),
    Case("wrong-label", "kubernetes.labels.team", "      gateway", "      labels: {team: a b}\n      gateway", "sign"),
    Case("wrong-name", "kubernetes.gateway.name", "name: public", "name: Public", "lower-case"),
    Case("out-of-range", "kubernetes.user", "      gateway", "      user: 0\n      gateway", "from 1"),
    Case("wrong-reference", "kubernetes.registry", "      gateway", "      registry: r.io/a:1\n      gateway", "tag"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.code}-{case.key}")
def test_what_a_cluster_cannot_do_is_refused_by_name(case: Case) -> None:
    scaled = FILE.replace("      gateway", "      autoscale: {max: 5}\n      gateway")
    text = FILE if case.code != "autoscale-needs-cpu" else scaled
    assert case.was in text
    with pytest.raises(SpecError) as caught:
        parse(text.replace(case.was, case.now, 1))
    found = {(m.code, m.key) for m in caught.value.mistakes}
    assert found == {(case.code, f"environments.production.{case.key}")}
    assert case.says in caught.value.mistakes[0].problem


@pytest.mark.parametrize(
    ("was", "now", "told"),
    [
        ("", "", "shop.example"),
        (", hostnames: [shop.example]", "", "gateway public"),
        ("gateway: {name: public, namespace: infra, section: https, hostnames: [shop.example]}", "namespace: prod",
         "shop-production.prod:80"),
    ],
)  # fmt: skip
def test_where_users_call_is_told_as_they_call_it(was: str, now: str, told: str) -> None:
    text = FILE.replace("strategy: canary", "strategy: blue-green")
    assert was in text
    assert plan_for(parse(text.replace(was, now, 1)), "production").listen == told


STAGING = """\
  staging:
    platform: kubernetes
    kubernetes:
      gateway: {name: public, namespace: infra, section: https, hostnames: [new.example, shop.example]}
"""


def test_two_environments_with_one_name_at_a_gateway_are_refused() -> None:
    with pytest.raises(SpecError) as caught:
        parse(FILE + STAGING)
    (mistake,) = caught.value.mistakes
    assert (mistake.code, mistake.key) == ("listen-taken", "environments.staging.kubernetes.gateway")
    assert "found shop.example, which production (line 15) has at the same gateway" in mistake.problem


@pytest.mark.parametrize("other", ["hostnames: [new.example]", "section: http, hostnames: [shop.example]"])
def test_names_of_their_own_or_another_listener_are_taken(other: str) -> None:
    text = STAGING.replace("section: https, hostnames: [new.example, shop.example]", other)
    assert set(parse(FILE + text).environments) == {"production", "staging"}


def test_labels_of_others_and_jobs_are_refused() -> None:
    with pytest.raises(SpecError, match="1 mistake") as caught:
        parse(FILE.replace("      gateway", "      labels: {rebake.dev/fleet: a}\n      gateway"))
    assert caught.value.mistakes[0].code == "wrong-label"
    text = FILE.replace("run:\n", "run:\n  kind: job\n").replace("instances: 3", "schedule: {every: 1h}")
    with pytest.raises(SpecError) as caught:
        parse(text)
    assert "job-not-here" in {m.code for m in caught.value.mistakes}
