from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebake.core.digest import digest_of
from rebake.errors import BrokenInvariant
from rebake.ledger.chain import GENESIS, MOST_FAULTS, extend, hash_of, verify
from rebake.ledger.entries import Record, body_text, document_text, entry_of, record_of
from rebake.ledger.ports import Draft, Verification


def _chain(count: int) -> list[Record]:
    drafts = [Draft("note", "shop", "production", f"r{n}", {"n": n, "environment": "x"}) for n in range(count)]
    return extend((0, GENESIS), drafts, at_ms=1000)


def _verify(records: Sequence[Record], head: tuple[int, str] | None = None, expect: str | None = None) -> Verification:
    whole = _chain(6)
    return verify(records, head=head or (6, whole[-1].hash), expect_head=expect)


def _problems(found: Verification) -> list[tuple[int, str]]:
    return [(fault.seq, fault.problem.partition(":")[0]) for fault in found.faults]


def _rehash(record: Record) -> Record:
    return record._replace(hash=hash_of(record))


def test_the_hash_of_an_entry_never_changes_between_versions_of_rebake() -> None:
    draft = Draft("intent", "guestbook", "production", None, {"action": "launch", "é": [1, None, True]})
    (record,) = extend((0, GENESIS), [draft], at_ms=1_700_000_000_123)
    assert GENESIS == "sha256:b6dc90bfb682c645fa886c2f66cce63bc9100ee7ccdd4a2f29f66a1e97b14bc0"
    assert record.hash == "sha256:2e5ff55a06c5b1bff1dddcac73a98d3eced251f04473267c7f103566e47c1a90"


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(texts, values, max_size=3), texts, texts, st.none() | texts, st.integers(0, 2**50))
def test_the_hash_is_the_digest_of_the_canonical_json_of_every_other_field(
    body: dict[str, object], service: str, environment: str, rollout: str | None, at_ms: int
) -> None:
    (record,) = extend((41, "sha256:x"), [Draft("note", service, environment, rollout, body)], at_ms)
    fields = record._asdict() | {"body": json.loads(record.body)}
    assert fields.pop("hash") == digest_of(fields)
    assert record_of(entry_of(record)) == record


def test_a_whole_chain_has_no_faults() -> None:
    records = _chain(6)
    assert _verify(records) == Verification(6, records[-1].hash, ())


@pytest.mark.parametrize("index", [0, 3, 5])
@pytest.mark.parametrize(
    "change",
    [
        {"body": '{"n":99}'},
        {"at_ms": 5},
        {"kind": "outcome"},
        {"service": "blog"},
        {"environment": "staging"},
        {"rollout": None},
        {"rollout": "r9"},
        {"hash": "sha256:" + "0" * 64},
        {"at_ms": "1000"},
        {"service": None},
        {"body": b"{}"},
        {"body": "\ud800"},
    ],
)
def test_any_changed_field_of_any_entry_is_found(index: int, change: dict[str, object]) -> None:
    records = _chain(6)
    records[index] = records[index]._replace(**change)  # type: ignore[arg-type]
    assert (index + 1, "changed") in _problems(_verify(records))


def test_columns_cannot_be_cut_elsewhere_to_give_the_same_text() -> None:
    # The text before the hash is ...,"body":{"n":0,"environment":"x"},"environment":...; a forger moves the borders.
    records = _chain(6)
    forged = records[0]._replace(body='{"environment":"x"', environment='x","n":0},"environment":"production')
    assert hash_of(forged) != records[0].hash


def test_a_changed_entry_with_a_new_hash_is_found_at_its_successor() -> None:
    records = _chain(6)
    records[2] = _rehash(records[2]._replace(body="{}"))
    assert _problems(_verify(records)) == [(4, "does not follow entry 3")]


def test_a_changed_last_entry_with_a_new_hash_is_found_by_the_head() -> None:
    records = _chain(6)
    records[5] = _rehash(records[5]._replace(body="{}"))
    (fault,) = _verify(records).faults
    assert fault.seq == 6
    assert "stored head" in fault.problem


@pytest.mark.parametrize("gone", [{1}, {3}, {2, 3, 4}, {1, 4}])
def test_missing_entries_are_named(gone: set[int]) -> None:
    found = _verify([record for record in _chain(6) if record.seq not in gone])
    assert found.entries == 6 - len(gone)
    assert {kind for _, kind in _problems(found)} == {"missing"}
    assert min(gone) == found.faults[0].seq


def test_a_missing_entry_with_the_rest_renumbered_is_found() -> None:
    records = [r if r.seq < 3 else r._replace(seq=r.seq - 1) for r in _chain(6) if r.seq != 3]
    found = _problems(_verify(records, head=(5, records[-1].hash)))
    assert [seq for seq, _ in found if _ == "changed"]


def test_a_renumbered_and_rehashed_rest_breaks_the_link() -> None:
    records = [r if r.seq < 3 else _rehash(r._replace(seq=r.seq - 1)) for r in _chain(6) if r.seq != 3]
    assert (3, "does not follow entry 2") in _problems(_verify(records, head=(5, records[-1].hash)))


def test_entries_in_another_order_are_reordered_and_not_missing() -> None:
    a, b, c, d, e, f = _chain(6)
    assert _problems(_verify([a, c, d, b, e, f])) == [(2, "reordered")]


def test_swapped_numbers_are_named_as_swapped() -> None:
    records = _chain(6)
    records[1], records[3] = records[3]._replace(seq=2), records[1]._replace(seq=4)
    found = _verify(records)
    assert (2, "reordered: entry 4 stands in this place") in [(f.seq, f.problem) for f in found.faults]
    assert (4, "reordered: entry 2 stands in this place") in [(f.seq, f.problem) for f in found.faults]


def test_a_duplicated_entry_is_found() -> None:
    a, b, c, d, e, f = _chain(6)
    assert _problems(_verify([a, b, b, c, d, e, f])) == [(2, "duplicated")]
    assert _problems(_verify([a, b, c, d, b, e, f])) == [(2, "duplicated")]


def test_a_chain_cut_off_at_its_end_is_found_by_the_head() -> None:
    found = _verify(_chain(4))
    assert [(f.seq, f.problem) for f in found.faults] == [(5, "cut off at the end: entries 5 to 6 are gone")]


def test_an_emptied_chain_is_found_by_the_head() -> None:
    assert _problems(_verify([])) == [(1, "cut off at the end")]


def test_entries_after_the_head_are_found() -> None:
    whole = _chain(6)
    assert _problems(_verify(whole, head=(4, whole[3].hash))) == [(5, "not written by rebake")]


def test_a_head_that_is_gone_is_found() -> None:
    assert [f.problem for f in verify(_chain(6), head=None).faults] == ["the stored head is missing"]


def test_chain_and_head_cut_together_are_found_by_a_hash_kept_elsewhere() -> None:
    kept = _chain(6)[-1].hash
    short = _chain(4)
    assert verify(short, head=(4, short[-1].hash)).faults == ()
    (fault,) = verify(short, head=(4, short[-1].hash), expect_head=kept).faults
    assert "cut short or rewritten" in fault.problem


def test_a_chain_rewritten_from_the_first_entry_is_found_by_a_hash_kept_elsewhere() -> None:
    kept = _chain(6)[2].hash
    forged = extend((0, GENESIS), [Draft("note", "shop", "production", None, {}) for _ in range(6)], 1)
    assert verify(forged, head=(6, forged[-1].hash)).faults == ()
    assert len(verify(forged, head=(6, forged[-1].hash), expect_head=kept).faults) == 1


def test_every_earlier_head_is_still_in_a_chain_that_grew() -> None:
    records = _chain(6)
    for kept in [GENESIS, *(record.hash for record in records)]:
        assert _verify(records, expect=kept).faults == ()


def test_a_million_faults_are_counted_and_not_all_listed() -> None:
    records = [record._replace(at_ms=1) for record in _chain(MOST_FAULTS + 50)]
    found = verify(records, head=(len(records), records[-1].hash))
    assert len(found.faults) == MOST_FAULTS + 1
    assert found.faults[-1].problem == "and 50 more faults from here on"


def test_documents_may_hold_floats_and_bodies_may_not() -> None:
    assert document_text({"b": 0.5, "a": 1}) == '{"a":1,"b":0.5}'
    with pytest.raises(BrokenInvariant):
        body_text({"b": 0.5})


def test_a_body_nested_without_end_is_refused() -> None:
    endless: dict[str, object] = {}
    endless["again"] = endless
    with pytest.raises(BrokenInvariant):
        body_text(endless)
