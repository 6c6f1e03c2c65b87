"""Server-side apply held to a model: a table of values and holders, over generated sequences of writes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from rebake.testing.kubernetes.apply import Manager, apply, read_managed, record_update, write_managed
from rebake.testing.kubernetes.fieldsets import from_json, to_json
from rebake.testing.kubernetes.schema import named
from rebake.testing.kubernetes.status import ApiError

Json = dict[str, Any]
MAP = named("io.k8s.api.core.v1.ConfigMap")
KEYS, VALUES, PEOPLE = ["a", "b", "c"], ["1", "2"], ["anna", "bert", "cleo"]
CONFIGS = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), max_size=3)
WRITES = st.tuples(st.sampled_from(["apply", "force", "update"]), st.sampled_from(PEOPLE), CONFIGS)


@dataclass
class Model:
    """What each key is, and who holds it, as the documentation of server-side apply says in prose.

    Attributes:
        followed: whether anybody manages the object: where nobody does, an update begins nothing.
    """

    values: dict[str, str] = field(default_factory=dict)
    holders: dict[str, set[tuple[str, str]]] = field(default_factory=dict)
    followed: bool = True

    def adopt(self) -> None:
        """What nobody managed has a holder of its own as soon as somebody applies."""
        if not self.followed:
            self.holders = {key: {("before-first-apply", "Update")} for key in self.values}

    def conflicts(self, who: tuple[str, str], wish: dict[str, str]) -> set[str]:
        changed = {key for key, value in wish.items() if key in self.values and self.values[key] != value}
        return {key for key in changed if self.holders[key] - {who}}

    def apply(self, who: tuple[str, str], wish: dict[str, str]) -> None:
        for key in list(self.values):
            if who in self.holders[key] and key not in wish:
                self.holders[key].discard(who)
                if not self.holders[key]:
                    del self.values[key], self.holders[key]
        for key, value in wish.items():
            same = self.values.get(key) == value
            self.values[key] = value
            self.holders[key] = ({*self.holders[key]} if same else set()) | {who}

    def update(self, who: tuple[str, str], wish: dict[str, str]) -> None:
        for key, value in wish.items():
            if self.values.get(key) != value:
                self.values[key], self.holders[key] = value, {who} if self.followed else set()


def _empty() -> Json:
    return {"metadata": {}}


def _map(values: dict[str, str]) -> Json:
    """A ConfigMap that holds the table, and does not speak of it where it is empty."""
    return {"data": dict(values)} if values else {}


def _holders(item: Json) -> dict[str, set[tuple[str, str]]]:
    found: dict[str, set[tuple[str, str]]] = {}
    for manager, entry in read_managed(item["metadata"]).items():
        for path in entry.fields:
            if len(path) == 2:
                found.setdefault(path[1][len("f:") :], set()).add((manager.name, manager.operation))
    return found


@settings(max_examples=300, deadline=None)
@given(st.lists(WRITES, max_size=12))
def test_every_sequence_of_writes_leaves_values_and_holders_as_the_model_has_them(
    writes: list[tuple[str, str, dict[str, str]]],
) -> None:
    model, item = Model(), _empty()
    for number, (kind, name, wish) in enumerate(writes):
        live = item if number else {}
        model.followed = not number or "managedFields" in item["metadata"]
        if kind == "update":
            who = Manager(name, "Update", "v1")
            after = {**item, **_map({**item.get("data", {}), **wish})}
            managed = record_update(MAP, live, after, read_managed(item["metadata"]), who, now="", ignored=())
            model.update((name, "Update"), wish)
        else:
            who = Manager(name, "Apply", "v1")
            held = {key: set(one) for key, one in model.holders.items()}
            model.adopt()
            conflicts = model.conflicts((name, "Apply"), wish)
            try:
                done = apply(MAP, live, _map(wish), who, force=kind == "force", now="", ignored=())
            except ApiError as error:
                assert kind == "apply"
                named_keys = {one["field"].removeprefix(".data.") for one in error.status["details"]["causes"]}
                assert named_keys == conflicts
                model.holders = held
                continue
            assert kind == "force" or not conflicts
            after, managed = done.value, done.managed
            model.apply((name, "Apply"), wish)
        item = {**after, "metadata": dict(item["metadata"])}
        write_managed(item["metadata"], managed)
        assert item.get("data", {}) == model.values
        assert _holders(item) == {key: one for key, one in model.holders.items() if one}


NAMES = st.sampled_from(["f:a", "f:b", 'k:{"name":"x"}', 'v:"y"'])
SETS = st.frozensets(st.lists(NAMES, min_size=1, max_size=4).map(tuple), max_size=8)


@given(SETS)
def test_a_set_of_fields_survives_being_written(fields: frozenset[tuple[str, ...]]) -> None:
    assert from_json(to_json(fields)) == fields
