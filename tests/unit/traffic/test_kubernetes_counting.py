"""From scraped counters to samples: what was counted between two scrapes, once and for whom it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebake.judge.samples import Arm
from rebake.kubernetes.settings import Traffic
from rebake.prometheus.api import Matrix
from rebake.traffic.kubernetes.counting import GUARD_SECONDS, Period, Scraped, samples_in, scrape_seconds
from rebake.traffic.kubernetes.templates import Queries, Subject, queries_for
from rebake.traffic.ports import Sample

BY_CODE = Queries(("requests",), code="code", latency=("latency",))
WEIGHTS = {"s1": 7_500, "c1": 2_500}
ALWAYS = [Period("a", 0.0, 1e6, WEIGHTS)]
LONG_AGO, NOW = 0.0, 1e5


def series(values: Mapping[float, float], instance: str = "g1", **labels: str) -> Matrix:
    return [({"job": "gateway", "instance": instance, **labels}, sorted(values.items()))]


def scraped(*parts: Matrix, latency: Matrix | None = None, queries: Queries = BY_CODE) -> Scraped:
    return Scraped(queries, {"requests": [row for part in parts for row in part], "latency": latency or []})


def read(
    stable: Scraped, candidate: Scraped, periods: list[Period] = ALWAYS, since: float = LONG_AGO, until: float = NOW
) -> tuple[Sample, ...]:
    return samples_in({"s1": stable, "c1": candidate}, periods, since, until)


NOBODY = scraped()


def test_what_grew_between_two_scrapes_finished_between_them() -> None:
    good, bad = series({100: 10, 115: 40}, code="200"), series({100: 1, 115: 3}, code="503")
    found = read(scraped(good, bad), scraped(series({100: 0, 115: 10}, code="200")))
    assert found == (Sample(115, WEIGHTS, {"s1": Arm(32, 2), "c1": Arm(10)}),)


def test_refusals_and_redirects_are_no_failures() -> None:
    parts = [series({100: 0, 115: n}, code=code) for code, n in (("200", 5), ("404", 3), ("302", 2), ("304", 4))]
    assert read(scraped(*parts), NOBODY)[0].fleets == {"s1": Arm(14, refused=3, redirected=2)}
    classes = [series({100: 0, 115: n}, code=code) for code, n in (("2xx", 5), ("4xx", 3), ("3xx", 2), ("5xx", 1))]
    assert read(scraped(*classes), NOBODY)[0].fleets == {"s1": Arm(11, 1, refused=3)}


def test_a_counter_that_began_again_lost_nothing_of_what_came_since() -> None:
    found = read(scraped(series({100: 50, 115: 60, 130: 4, 145: 9}, code="200")), NOBODY)
    assert [sample.fleets["s1"].n for sample in found] == [10, 4, 5]


def test_a_series_that_is_born_counts_from_zero_where_its_target_was_scraped_before() -> None:
    first_failures = series({130: 3, 145: 3}, code="503")
    found = read(scraped(series({100: 0, 115: 10, 130: 20, 145: 30}, code="200"), first_failures), NOBODY)
    assert [(s.at, s.fleets["s1"].n, s.fleets["s1"].errors) for s in found] == [
        (115, 10, 0),
        (130, 13, 3),
        (145, 10, 0),
    ]


def test_a_candidates_first_requests_are_known_by_what_the_target_said_of_stable() -> None:
    found = read(scraped(series({100: 0, 115: 30}, code="200")), scraped(series({115: 9}, code="200")))
    assert found[0].fleets["c1"] == Arm(9)


def test_a_target_with_an_unknown_past_counts_from_its_second_scrape() -> None:
    old, fresh = series({100: 0, 115: 1, 130: 2}, code="200"), series({115: 999, 130: 1000}, "g2", code="200")
    found = read(scraped(old, fresh), NOBODY)
    assert sum(sample.fleets["s1"].n for sample in found) == 3


def test_each_target_is_compared_with_itself() -> None:
    stable = scraped(series({100: 0, 115: 10}, "g1", code="200"), series({107: 0, 122: 20}, "g2", code="200"))
    candidate = scraped(series({100: 0, 115: 1}, "g1", code="200"), series({107: 0, 122: 2}, "g2", code="200"))
    found = read(stable, candidate)
    assert [(s.at, s.fleets["s1"].n, s.fleets["c1"].n) for s in found] == [(115, 10, 1), (122, 20, 2)]


def test_what_lies_across_a_change_of_the_weights_is_nobodys_evidence() -> None:
    shares = {"s1": 9_000, "c1": 1_000}
    periods = [Period("a", 0.0, 119.0, WEIGHTS), Period("b", 121.0, 1e6, shares)]
    counts = scraped(series(dict(zip(range(100, 161, 10), range(0, 70, 10), strict=True)), code="200"))
    found = read(counts, counts, periods)
    assert [(s.at, s.weights) for s in found] == [(110, WEIGHTS), (140, shares), (150, shares), (160, shares)]
    assert 121.0 + GUARD_SECONDS <= 130, "the scrape at 130 begins the first whole interval"


def test_a_time_nobody_watched_is_not_judged() -> None:
    counts = scraped(series({100: 0, 115: 5, 130: 10}, code="200"))
    assert read(counts, counts, [Period("a", 0.0, 120.0, WEIGHTS)])[-1].at == 115
    assert read(counts, counts, []) == ()


def test_weights_of_fleets_without_users_are_left_out() -> None:
    counts = scraped(series({100: 0, 115: 5}, code="200"))
    found = read(counts, NOBODY, [Period("a", 0.0, 1e6, {"s1": 10_000, "c1": 0})])
    assert found[0].weights == {"s1": 10_000}


def test_one_reading_goes_on_where_the_other_ended() -> None:
    counts = scraped(series({at: 7 * at for at in range(100, 200, 15)}, code="200"))
    whole = read(counts, counts)
    parts = [read(counts, counts, since=a, until=b) for a, b in ((0, 130), (130, 144), (144, 1e5))]
    assert tuple(sample for part in parts for sample in part) == whole


def test_durations_fall_into_the_judges_buckets_by_their_bound() -> None:
    bounds = {"0.005": 4, "0.01": 10, "0.1": 18, "+Inf": 20}
    latency = [row for le, n in bounds.items() for row in series({100: 0, 115: n}, le=le)]
    arm = read(scraped(series({100: 0, 115: 20}, code="200"), latency=latency), NOBODY)[0].fleets["s1"]
    found = {bucket: count for bucket, count in enumerate(arm.latency) if count}
    ends = {round(1.05**bucket): count for bucket, count in found.items()}
    assert sum(arm.latency) == 20
    assert list(ends.values()) == [4, 6, 8, 2]
    assert list(ends) == [pytest.approx(bound, rel=0.06) for bound in (5, 10, 100, 200)]


def test_failures_of_their_own_counter_are_never_more_than_the_requests() -> None:
    queries = Queries(("requests",), errors=("errors",))
    found = {"requests": series({100: 0, 115: 5}), "errors": series({100: 0, 115: 9})}
    assert read(Scraped(queries, found), NOBODY)[0].fleets["s1"] == Arm(5, 5)


def test_the_time_between_scrapes_is_seen() -> None:
    assert scrape_seconds([scraped(series({0: 1, 30: 2, 60: 2, 91: 3}))]) == 30
    assert scrape_seconds([scraped(series({0: 1}))]) is None


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5), st.booleans()), min_size=2, max_size=40),
    st.lists(st.integers(0, 40), max_size=5),
)
def test_every_request_is_counted_once_whatever_restarts_and_wherever_readings_end(
    steps: list[tuple[int, int, bool]], cuts: list[int]
) -> None:
    good, bad, total_good, total_bad = 0, 0, 0, 0
    rows: dict[str, dict[float, float]] = {"200": {0: 0}, "503": {0: 0}}
    for number, (ok, failed, restarts) in enumerate(steps, 1):
        if restarts:
            good = bad = 0
        good, bad = good + ok, bad + failed
        # a restart that is outgrown at once cannot be seen by anybody
        hidden_good, hidden_bad = (
            restarts and rows["200"][number - 1] <= good,
            restarts and rows["503"][number - 1] <= bad,
        )
        total_good += good - int(rows["200"][number - 1]) if hidden_good else ok
        total_bad += bad - int(rows["503"][number - 1]) if hidden_bad else failed
        rows["200"][number], rows["503"][number] = good, bad
    counts = scraped(*(series(row, code=code) for code, row in rows.items()))
    ends = [-1.0, *sorted({float(cut) for cut in cuts}), 1e5]
    always = [Period("a", -100.0, 1e6, WEIGHTS)]
    found = [s for a, b in pairwise(ends) for s in read(counts, NOBODY, always, a, b)]
    assert sum(s.fleets["s1"].n for s in found) == total_good + total_bad
    assert sum(s.fleets["s1"].errors for s in found) == total_bad


# --- which series


SUBJECT = Subject(
    "shop",
    "production",
    "eu",
    "shop-production",
    "r-1",
    "shop-production-1a2b",
    {"p": "10.0.0.1:8080", "q": "10.0.0.2:80"},
)


def test_requests_that_never_got_a_connection_to_a_pod_are_failures_that_envoy_does_not_count_in_its_total() -> None:
    queries = queries_for(Traffic("http://prometheus:9090", "envoy-gateway"), SUBJECT)
    said: dict[str, dict[float, float]] = {"success": {100: 901, 115: 905}, "error": {100: 0, 115: 90}}
    said["total"] = {100: 903, 115: 903}
    found = {query: series(said[name]) for name in said for query in queries.all if f"_rq_{name}{{" in query}
    assert read(Scraped(queries, found), NOBODY)[0].fleets == {"s1": Arm(94, 90)}


@pytest.mark.parametrize("source", ["envoy-gateway", "istio", "nginx-gateway", "traefik", "own"])
def test_each_gateways_queries_name_one_fleet_and_nothing_else(source: str) -> None:
    traffic = Traffic("http://p", source)
    if source == "own":
        traffic = replace(traffic, requests='http_requests_total{pod=~"$names"}', errors='failed{fleet="$fleet"}')
    found = queries_for(traffic, SUBJECT)
    assert found.all
    for query in found.all:
        one = ("10[.]0[.]0[.]1:8080|10[.]0[.]0[.]2:80", "shop-production-1a2b", 'pod=~"p|q"', 'fleet="r-1"')
        assert any(part in query for part in one), query
    assert found.code or found.errors, "who sees no failures would call everything healthy"
