"""Names: valid wherever Kubernetes puts them, and different for what is different."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from rebake.kubernetes import names
from rebake.spec.fields import NAME

_LABEL_1035 = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
NAMES = st.from_regex(NAME, fullmatch=True)


@given(NAMES, NAMES, st.sampled_from(["r-01k9zq3m2hxr", "f1"]))
def test_every_name_is_a_dns_label_that_begins_with_a_letter(service: str, environment: str, fleet: str) -> None:
    whole = names.fleet_name(service, environment, "sha256:" + "ab" * 32, fleet)
    assert len(whole) <= 47
    for name in (whole, names.environment_name(service, environment), names.lead_name(service, environment)):
        assert _LABEL_1035.fullmatch(name), name


@given(st.lists(st.tuples(NAMES, NAMES), min_size=2, max_size=5, unique=True))
def test_environments_of_different_names_are_told_apart_by_labels(pairs: list[tuple[str, str]]) -> None:
    chosen = {names.selector(names.environment_labels(*pair)) for pair in pairs}
    assert len(chosen) == len(pairs)


def test_two_fleets_of_one_revision_are_two() -> None:
    first, second = (names.fleet_name("shop", "prod", "sha256:" + "c" * 64, fleet) for fleet in ("r-1", "r-2"))
    assert first != second
    assert first.startswith("shop-prod-cccccccc-")


@given(st.text("abc:./_-0", min_size=1, max_size=90).filter(lambda t: t[0].isalnum() and t[-1].isalnum()))
def test_a_label_holds_any_id(text: str) -> None:
    value = names.label_value(text.replace("/", "."))
    assert _VALUE.fullmatch(value), value
