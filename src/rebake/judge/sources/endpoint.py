"""Metrics from the service's own endpoint: every instance of both cohorts is asked for its text of metrics."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from rebake.errors import RebakeError
from rebake.judge.metric_readings import CohortName, Pair, Side
from rebake.judge.metric_rules import REQUESTS, EndpointAsk
from rebake.judge.ports import Question
from rebake.judge.selectors import Selector, parse_selector
from rebake.prometheus.asking import Answer, ask, refused

AT_A_TIME = 8
ACCEPT = "application/openmetrics-text;version=1.0.0;q=0.9,text/plain;version=0.0.4;q=0.8"


@dataclass(frozen=True, slots=True)
class Page:
    """One instance's metrics: its samples, and the names it knows, also of metrics without a sample yet."""

    at: float
    samples: tuple[tuple[str, Mapping[str, str], float], ...]
    names: frozenset[str]

    def values(self, selector: Selector) -> list[float]:
        return [value for name, labels, value in self.samples if selector.holds(name, labels)]

    def knows(self, name: str) -> bool:
        return name in self.names


# --- pure ------------------------------------------------------------------------------------------------------------


def page_of(answer: Answer, url: str, at: float) -> Page:
    """Parse Prometheus' text format or OpenMetrics. Raises: Permanent `metric-refused`."""
    if answer.status != 200:
        raise refused(f"GET {url}: expected status 200, found {answer.status}", "correct endpoint.path")
    if "openmetrics" in answer.content_type:
        from prometheus_client.openmetrics.parser import text_string_to_metric_families as families
    else:
        from prometheus_client.parser import text_string_to_metric_families as families
    try:
        found: list[Any] = list(families(answer.text))  # type: ignore[no-untyped-call]
    except (ValueError, KeyError, IndexError) as error:
        problem = f"GET {url}: expected Prometheus' text of metrics, found {answer.text[:40]!r} ({error})"
        raise refused(problem, "let endpoint.path name the service's metrics") from error
    samples = tuple((s.name, dict(s.labels), float(s.value)) for family in found for s in family.samples)
    known = {name for name, _, _ in samples}
    for family in found:
        known |= {family.name, f"{family.name}_total"} if family.type == "counter" else {family.name}
    return Page(at, samples, frozenset(known))


def counter(page: Page, selector: Selector) -> float:
    """The counter summed over its series; 0 where its name is known and no series is born yet."""
    return sum(page.values(selector))


def gauge(page: Page, selector: Selector, instance: str) -> float | None:
    """The gauge's value. Raises: Permanent when the selector leaves open which one is meant."""
    found = page.values(selector)
    if len(found) > 1:
        problem = f"{selector.name} has {len(found)} series on {instance}, and one number is wanted"
        raise refused(problem, f'name the one by its labels: {selector.name}{{label="value"}}')
    return found[0] if found else None


def side_of(wanted: EndpointAsk, pages: Mapping[str, Page]) -> Side:
    """What the pages of one cohort say, by instance."""
    if wanted.value is not None:
        chosen = parse_selector(wanted.value)
        found = {instance: gauge(page, chosen, instance) for instance, page in pages.items()}
        return Side(numbers={instance: value for instance, value in found.items() if value is not None})
    first = parse_selector(wanted.growth or wanted.hits or "")
    second = wanted.per if wanted.growth is not None else wanted.total
    return Side(counters={i: pair for i, page in pages.items() if (pair := _pair(page, first, second)) is not None})


def _pair(page: Page, first: Selector, second: str | None) -> Pair | None:
    """Two counters of one instance; the second is the time where a growth is for each second, and nothing where the
    route counts the total. None where the instance does not say it."""
    if second is None or second == REQUESTS:
        return (counter(page, first), page.at if second is None else 0.0)
    total = page.values(parse_selector(second))
    return (counter(page, first), sum(total)) if total else None


def refuse_unknown(wanted: EndpointAsk, pages: Iterable[Page]) -> None:
    """A name that no instance knows may be a slip of the pen: that must not pass for a service without a failure."""
    known = list(pages)
    for text in (wanted.value, wanted.growth, wanted.per, wanted.hits, wanted.total):
        if text is None or text == REQUESTS or not known:
            continue
        name = parse_selector(text).name
        if not any(page.knows(name) for page in known):
            near = get_close_matches(name, sorted(set().union(*(page.names for page in known))), 1)
            remedy = f"did you mean {near[0]}?" if near else "let the service name it before the first event"
            raise refused(f"no instance has a metric called {name}", remedy)


# --- the source ------------------------------------------------------------------------------------------------------


class EndpointSource:
    """`judge.ports.MetricSource` for `EndpointAsk`."""

    def read(self, question: Question) -> Mapping[CohortName, Side]:
        wanted = question.rule.ask
        assert isinstance(wanted, EndpointAsk)
        pages = {name: _pages(wanted, cohort.instances) for name, cohort in question.cohorts.items()}
        refuse_unknown(wanted, [page for of_cohort in pages.values() for page in of_cohort.values()])
        return {name: side_of(wanted, of_cohort) for name, of_cohort in pages.items()}


def _pages(wanted: EndpointAsk, instances: Mapping[str, str]) -> dict[str, Page]:
    """The page of every instance that answers. Raises: what the first one said when none does."""
    if not instances:
        return {}
    with ThreadPoolExecutor(min(len(instances), AT_A_TIME)) as pool:
        asked = {name: pool.submit(_page, wanted, address) for name, address in sorted(instances.items())}
    found: dict[str, Page] = {}
    errors: list[RebakeError] = []
    for name, future in asked.items():
        error = future.exception()
        if isinstance(error, RebakeError):
            errors.append(error)
        else:
            found[name] = future.result()
    if not found:
        raise errors[0]
    return found


def _page(wanted: EndpointAsk, address: str) -> Page:
    url = f"http://{address}{wanted.path}"
    return page_of(ask(url, wanted.timeout_ms, headers={"Accept": ACCEPT}), url, time.monotonic())
