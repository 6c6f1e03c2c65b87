"""`judge.metrics`: what is read from the file, and every way to get it wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from rebake.errors import SpecError
from rebake.judge.metric_rules import CommandAsk, EndpointAsk, MetricRule, PrometheusAsk
from rebake.spec.load import parse
from rebake.spec.plan import plan_for

HEAD = """service: shop
bake: {builder: python}
run: {command: [python, -m, shop]}
environments:
  production:
    platform: local
    listen: 127.0.0.1:8080
    judge:
      metrics:
"""


def _rules(text: str) -> tuple[MetricRule, ...]:
    return plan_for(parse(HEAD + text), "production", Path("/srv/shop")).judge.metrics


def test_every_source_with_the_defaults_of_its_form() -> None:
    share, number, probe, asked = _rules(
        """        failed: {endpoint: {hits: 'jobs_total{state="failed"}', total: jobs_total}, margin: {extra: 1%}}
        age: {endpoint: {value: age, path: /m}, worse: lower, margin: {percent: 5%, absolute: 2.5}, loaded: false}
        probe: {command: [python, probe.py], interval: 30s, missing: ignore}
        memory: {prometheus: {url: "http://127.0.0.1:9090", query: 'x{fleet="$fleet"}'}, observe: true}
"""
    )
    assert share == MetricRule(
        "failed", EndpointAsk(hits='jobs_total{state="failed"}', total="jobs_total"), extra_bp=100
    )
    assert (number.form, number.worse, number.percent_bp, number.absolute_milli) == ("number", "lower", 500, 2500)
    assert number.loaded is False
    assert probe.ask == CommandAsk(("python", "probe.py"), "exit-code", "/srv/shop")
    assert (probe.form, probe.missing, probe.interval_ms) == ("share", "ignore", 30_000)
    assert asked.ask == PrometheusAsk("http://127.0.0.1:9090", query='x{fleet="$fleet"}')
    assert asked.observe is True


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("m: {interval: 10s}", "metric-source", "found none of them"),
        ("m: {endpoint: {value: a}, command: [x]}", "metric-source", "found endpoint and command"),
        ("m: {endpoint: {}}", "metric-form", "value, growth or hits with total"),
        ("m: {endpoint: {value: a, hits: b, total: c}}", "metric-form", "found value and hits"),
        ("m: {endpoint: {hits: a}}", "metric-form", "found no total"),
        ("m: {endpoint: {value: a, per: b}}", "key-does-nothing", "expected per only with growth"),
        ("m: {endpoint: {value: 'a{b}'}}", "wrong-selector", "conditions such as"),
        ("m: {endpoint: {hits: $requests, total: a}}", "wrong-selector", "a metric's name"),
        ("m: {prometheus: {url: '127.0.0.1:9090', query: up}}", "wrong-url", "did you mean http://127.0.0.1:9090?"),
        ("m: {prometheus: {url: 'http://a:b@c', query: up}}", "wrong-url", "without user, password"),
        ("m: {prometheus: {url: 'http://c', query: 'up{a=\"$flet\"}'}}", "unknown-placeholder", "did you mean $fleet?"),
        ("m: {prometheus: {url: 'http://c', hits: 'rate(a[5m])', total: b}}", "counter-needed", "remove rate("),
        ("m: {prometheus: {query: up}}", "missing-key", "url"),
        ("m: {command: [x], span: 30s}", "key-does-nothing", "expected span only with numbers"),
        ("m: {command: [x], worse: lower}", "key-does-nothing", "expected worse: higher for exit codes"),
        ("m: {command: [x], margin: {percent: 5%}}", "key-does-nothing", "ratio or extra"),
        ("m: {endpoint: {value: a}, margin: {ratio: 2}}", "key-does-nothing", "percent or absolute"),
        ("m: {endpoint: {value: a}, reads: number}", "key-does-nothing", "expected reads only with command"),
        ("m: {endpoint: {value: a}, timeout: 5s}", "key-does-nothing", "a timeout of its own"),
        ("m: {endpoint: {value: a}, interval: 1m}", "span-too-short", "30s (the default)"),
        ("m: {endpoint: {value: a}, marginn: {}}", "unknown-key", "did you mean margin?"),
        ("M_1: {endpoint: {value: a}}", "wrong-name", "did you mean m-1?"),
    ],
)
def test_a_mistake_is_named_with_its_place(text: str, code: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse(HEAD + f"        {text}\n")
    found = [(m.code, m.line) for m in caught.value.mistakes]
    assert (code, 10) in found, caught.value.evidence
    assert said in " ".join(caught.value.evidence)


def test_more_metrics_than_anybody_watches_are_refused() -> None:
    with pytest.raises(SpecError):
        parse(HEAD + "".join(f"        m-{i}: {{endpoint: {{value: a}}}}\n" for i in range(17)))
