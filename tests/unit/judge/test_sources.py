"""Where metrics of the service's own are read: a real endpoint, real programs, a real Prometheus where there is one."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from tests.prometheus import prometheus
from tests.unit.judge.metered_service import Metered, metered

from rebake.errors import Permanent, PlatformError, Transient
from rebake.judge.metric_readings import CohortName, Side
from rebake.judge.metric_rules import REQUESTS, Ask, CommandAsk, EndpointAsk, MetricRule, PrometheusAsk
from rebake.judge.ports import Cohort, Question
from rebake.judge.selectors import alternatives, filled, parse_selector, placeholders_in
from rebake.judge.sources.command import CommandSource
from rebake.judge.sources.endpoint import EndpointSource
from rebake.judge.sources.prometheus import PrometheusSource, paired
from rebake.prometheus.api import series_in
from rebake.prometheus.asking import Answer

MANUAL = Path(__file__).parents[3] / "docs" / "metrics.md"


def question(ask: Ask, **cohorts: Mapping[str, str]) -> Question:
    found: dict[CohortName, Cohort] = {}
    for name in ("stable", "candidate"):
        if name in cohorts:
            found[name] = Cohort(f"r-{name}", "sha256:11", "sha256:22", cohorts[name])
    return Question("shop", "production", MetricRule("m", ask), found)


@pytest.fixture
def two() -> Iterator[tuple[Metered, Metered]]:
    with metered() as stable, metered() as candidate:
        yield stable, candidate


def _both(two: tuple[Metered, Metered], ask: EndpointAsk) -> Mapping[CohortName, Side]:
    stable, candidate = two
    return EndpointSource().read(question(ask, stable={"s-1": stable.address}, candidate={"c-1": candidate.address}))


# --- the service's own endpoint --------------------------------------------------------------------------------------


def test_counters_are_added_up_by_instance_and_conditions(two: tuple[Metered, Metered]) -> None:
    stable, candidate = two
    for service, failed in ((stable, 1), (candidate, 4)):
        service.jobs.labels("failed").inc(failed)
        service.jobs.labels("done").inc(10)
    found = _both(two, EndpointAsk(hits='jobs_total{state="failed"}', total='jobs_total{state=~"done|failed"}'))
    assert found["stable"].counters == {"s-1": (1.0, 11.0)}
    assert found["candidate"].counters == {"c-1": (4.0, 14.0)}


def test_a_counter_without_a_series_yet_is_zero_and_a_slip_of_the_pen_is_not(two: tuple[Metered, Metered]) -> None:
    two[0].jobs.labels("done").inc()
    two[1].jobs.labels("done").inc()
    found = _both(two, EndpointAsk(hits='jobs_total{state="failed"}', total="jobs_total"))
    assert found["candidate"].counters == {"c-1": (0.0, 1.0)}
    with pytest.raises(Permanent) as caught:
        _both(two, EndpointAsk(hits="jbs_total", total="jobs_total"))
    assert caught.value.remedy == "did you mean jobs_total?"


def test_a_gauge_is_one_number_and_two_are_refused(two: tuple[Metered, Metered]) -> None:
    for service in two:
        service.age.labels("mail").set(12)
    assert _both(two, EndpointAsk(value="queue_oldest_seconds"))["stable"].numbers == {"s-1": 12.0}
    two[0].age.labels("sms").set(1)
    with pytest.raises(Permanent, match="2 series on s-1"):
        _both(two, EndpointAsk(value="queue_oldest_seconds"))
    assert _both(two, EndpointAsk(value='queue_oldest_seconds{queue="sms"}'))["stable"].numbers == {"s-1": 1.0}


def test_the_growth_of_a_sum_for_each_of_its_counts(two: tuple[Metered, Metered]) -> None:
    two[0].seconds.observe(0.5)
    found = _both(two, EndpointAsk(growth="job_seconds_sum", per="job_seconds_count"))
    assert found["stable"].counters == {"s-1": (0.5, 1.0)}
    assert found["candidate"].counters == {"c-1": (0.0, 0.0)}


def test_hits_of_requests_stand_alone(two: tuple[Metered, Metered]) -> None:
    two[0].jobs.labels("failed").inc(3)
    found = _both(two, EndpointAsk(hits="jobs_total", total=REQUESTS))
    assert found["stable"].counters == {"s-1": (3.0, 0.0)}


def test_an_instance_that_does_not_answer_is_left_out_and_none_is_an_error(two: tuple[Metered, Metered]) -> None:
    two[0].jobs.labels("done").inc()
    ask, gone = EndpointAsk(hits="jobs_total", total="jobs_total"), _free_address()
    found = EndpointSource().read(question(ask, stable={"s-1": two[0].address, "s-2": gone}))
    assert set(found["stable"].counters) == {"s-1"}
    with pytest.raises(Transient, match=re.escape(gone)):
        EndpointSource().read(question(ask, stable={"s-1": two[0].address}, candidate={"c-1": gone}))


def test_a_page_that_is_no_metrics_is_refused(two: tuple[Metered, Metered]) -> None:
    from rebake.judge.sources.endpoint import page_of

    with pytest.raises(Permanent, match="expected status 200, found 404"):
        page_of(Answer(404, "text/plain", "no"), "http://x/metrics", 0.0)
    with pytest.raises(Permanent, match="text of metrics"):
        page_of(Answer(200, "text/html", "<html><body>{{</body>"), "http://x/metrics", 0.0)


# --- programs --------------------------------------------------------------------------------------------------------


def _program(text: str) -> tuple[str, ...]:
    return (sys.executable, "-c", text)


def test_an_exit_code_is_a_trial_of_the_cohort_it_was_told() -> None:
    text = (
        "import os, sys; told = os.environ; "
        "sys.exit(told['REBAKE_COHORT'] == 'candidate' and '127.0.0.1:2' in told['REBAKE_URLS'])"
    )
    ask = CommandAsk(_program(text))
    found = CommandSource().read(question(ask, stable={"s": "127.0.0.1:1"}, candidate={"c": "127.0.0.1:2"}))
    assert found["stable"].trials == (1.0, 0.0)
    assert found["candidate"].trials == (1.0, 1.0)


def test_the_last_line_is_the_number_whatever_else_is_said() -> None:
    ask = CommandAsk(_program("import sys; print('asking'); print(3.5); print('warning', file=sys.stderr)"), "number")
    assert CommandSource().read(question(ask, stable={}))["stable"].numbers == {"": 3.5}


@pytest.mark.parametrize(
    ("ask", "family", "said"),
    [
        (CommandAsk(("/no/such/program",)), Permanent, "No such file"),
        (CommandAsk(_program("raise SystemExit(75)")), Transient, "no data"),
        (CommandAsk(_program("raise SystemExit(127)")), Permanent, "exit 127"),
        (CommandAsk(_program("import time; time.sleep(60)"), timeout_ms=300), Transient, "did not end within 0.3s"),
        (CommandAsk(_program("print('soon')"), "number"), Permanent, "found 'soon'"),
        (CommandAsk(_program("print('nan')"), "number"), Permanent, "found nan"),
        (CommandAsk(_program("pass"), "number"), Permanent, "found nothing"),
        (CommandAsk(_program("print(1); raise SystemExit(1)"), "number"), Permanent, "exit 1"),
    ],
)
def test_what_a_program_can_do_wrong_is_no_data(ask: CommandAsk, family: type[PlatformError], said: str) -> None:
    with pytest.raises(family, match=re.escape(said)):
        CommandSource().read(question(ask, stable={}))


# --- Prometheus ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "family", "said"),
    [
        (Answer(200, "text/html", "<html>"), Permanent, "expected Prometheus' JSON"),
        (Answer(400, "", '{"status":"error","errorType":"bad_data","error":"parse error"}'), Permanent, "parse error"),
        (Answer(503, "", '{"status":"error","errorType":"timeout","error":"slow"}'), Transient, "slow"),
        (Answer(200, "", '{"status":"success","data":{"resultType":"matrix","result":[]}}'), Permanent, "a matrix"),
    ],
)
def test_what_prometheus_refuses_is_said_with_its_query(answer: Answer, family: type[PlatformError], said: str) -> None:
    with pytest.raises(family, match=said) as caught:
        series_in(answer, "up[5m]")
    assert "up[5m]" in caught.value.problem or "JSON" in caught.value.problem


def test_a_series_of_hits_that_is_not_born_yet_counts_zero() -> None:
    total = [({"instance": "a"}, 7.0), ({"instance": "b", "code": "200"}, 5.0), ({"instance": "b", "code": "500"}, 1.0)]
    assert paired([({"instance": "b", "code": "500"}, 1.0)], total) == {"a": (0.0, 7.0), "b": (1.0, 6.0)}


def test_placeholders_are_filled_in_and_addresses_fit_into_quotes() -> None:
    assert placeholders_in('a{x=~"$instances"} + ${cohort} $$ $') == ["instances", "cohort", ""]
    assert filled("${cohort}/$cohort/$$/$other", {"cohort": "stable"}) == "stable/stable/$/$other"
    pattern = alternatives(["127.0.0.1:80", "[::1]:80"])
    assert re.fullmatch(pattern, "127.0.0.1:80")
    assert not re.fullmatch(pattern, "127x0.0.1:80")
    assert re.fullmatch(pattern, "[::1]:80")
    assert "\\" not in pattern


@pytest.mark.parametrize("text", ["", "1abc", "a{b}", 'a{b="c"', 'a{b=~"("}', 'a{b="c"} or x', "rate(a[5m])"])
def test_what_is_no_selector_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"name|conditions|expression"):
        parse_selector(text)


def test_conditions_hold_as_in_prometheus() -> None:
    chosen = parse_selector('a{b=~"x|y",c!="1",d=""}')
    assert chosen.holds("a", {"b": "x", "c": "2"})
    assert not chosen.holds("a", {"b": "xy", "c": "2"})
    assert not chosen.holds("a", {"b": "x", "c": "1"})


def _free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def _wait(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "still waiting"
        time.sleep(0.1)


@pytest.mark.real
def test_a_real_prometheus_says_what_its_targets_count(tmp_path: Path, two: tuple[Metered, Metered]) -> None:
    stable, candidate = two
    stable.jobs.labels("done").inc(8)
    candidate.jobs.labels("failed").inc(2)
    with prometheus(tmp_path, [stable.address, candidate.address]) as address:
        matched = 'jobs_total{instance=~"$instances"'
        share = PrometheusAsk(f"http://{address}/", hits=f'{matched}, state="failed"}}', total=f"{matched}}}")
        sides = {"stable": {"s": stable.address}, "candidate": {"c": candidate.address}}
        _wait(lambda: _answers(question(share, **sides)))
        found = PrometheusSource().read(question(share, **sides))
        assert found["stable"].counters == {stable.address: (0.0, 8.0)}
        assert found["candidate"].counters == {candidate.address: (2.0, 2.0)}
        number = PrometheusAsk(f"http://{address}", query=f"sum({matched}}})")
        assert list(PrometheusSource().read(question(number, **sides))["stable"].numbers.values()) == [8.0]
        with pytest.raises(Permanent, match="parse error"):
            PrometheusSource().read(question(PrometheusAsk(f"http://{address}", query="sum("), **sides))
        with pytest.raises(Permanent, match="no series of either cohort"):
            PrometheusSource().read(
                question(PrometheusAsk(f"http://{address}", hits="no", total="jobs_total"), **sides)
            )


def _answers(asked: Question) -> bool:
    try:
        return all(side.counters for side in PrometheusSource().read(asked).values())
    except PlatformError:
        return False


def test_every_query_of_the_manual_is_promql(tmp_path: Path) -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("needs promtool: apt-get install prometheus")
    rows = re.findall(
        r"^\| [^|]+ \| (`.+`) \|$", MANUAL.read_text("utf-8").partition("## Queries for usual")[2], re.MULTILINE
    )
    queries = [q for row in rows for q in re.findall(r"`([^`]+)`", row)]
    assert len(queries) == 16
    rules = [f"  - {{record: 'q{i}', expr: {q!r}}}" for i, q in enumerate(queries)]
    file = tmp_path / "rules.yml"
    file.write_text("groups:\n- name: g\n  rules:\n" + "\n".join(rules) + "\n")
    done = subprocess.run([program, "check", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
