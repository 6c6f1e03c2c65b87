from __future__ import annotations

import math

import pytest

from rebake.judge.texts import compared, evidence, number, percent, points, sparkline


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0 %"), (4 / 9, "44 %"), (2 / 3410, "0.059 %"), (0.012, "1.2 %"), (1.0, "100 %"), (0.099, "9.9 %")],
)
def test_shares_are_written_as_people_write_them(share: float, text: str) -> None:
    assert percent(share) == text


def test_a_comparison_reads_as_one_sentence() -> None:
    assert compared("bad answer", (9, 4), (3410, 2)) == (
        "4 bad answers of 9 on the candidate (44 %) against 2 of 3,410 on stable (0.059 %)"
    )
    assert compared("bad answer", (1, 1), (1, 0)) == (
        "1 bad answer of 1 on the candidate (100 %) against 0 of 1 on stable (0 %)"
    )
    assert compared("bad answer", (0, 0), (0, 0)) == "no request on the candidate against no request on stable"
    assert compared("answer slower than stable's p99 limit", (10, 2), (10, 0)).startswith("2 answers slower than")


def test_numbers_and_points_stay_short() -> None:
    assert [number(x) for x in (0.0, 0.123, 3.0, 7.61, 310.4, 3410.0, 1e9)] == [
        "0",
        "0.12",
        "3",
        "7.6",
        "310",
        "3,410",
        "1,000,000,000",
    ]
    assert points(0.004) == "0.4 points"
    assert points(0.01) == "1 point"


def test_evidence_is_never_rounded_up_to_what_takes_a_candidate_back() -> None:
    assert [evidence(x) for x in (0.0, 1.0, 9.96, 99.97, 100.0, 16_178.4, 1e280)] == [
        "under 0.01",
        "1",
        "10",
        "99",
        "100",
        "16,178",
        "over a million",
    ]


def test_a_sparkline_shows_growth_and_never_hides_a_peak() -> None:
    assert sparkline([]) == ""
    assert sparkline([1.0, 10.0, 100.0]) == "▁▄█"
    assert sparkline([1.0, 10.0, 99.9], plain=True) == "_=%"
    assert "█" not in sparkline([99.9])
    assert "█" in sparkline([1.0] * 500 + [100.0] + [1.0] * 500)
    assert len(sparkline([1.0] * 1000)) == 24
    assert sparkline([math.nan, -1.0, math.inf]) == "▁▁█"
