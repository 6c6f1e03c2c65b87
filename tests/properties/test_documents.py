"""What the ledger keeps of an environment is all of it, however it came about."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.properties.worlds import environments

from rebake.core.codec import dump, load
from rebake.rollout.documents import Documents
from rebake.rollout.world import Environment


@given(st.lists(environments(), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_a_document_made_of_known_parts_is_the_whole_document(one_after_the_other: list[Environment]) -> None:
    documents = Documents()
    for environment in one_after_the_other:
        for _ in range(2):
            assert documents.of(environment) == dump(environment)
        assert load(Environment, documents.of(environment)) == environment
