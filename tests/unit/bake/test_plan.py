"""What a layer is made of when most of it lies in another one: always the same bytes as written from nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rebake.bake.plan import (
    FILE,
    LINK,
    PROGRAM,
    Copy,
    Entry,
    entry_length,
    file_list,
    renewed_file_list,
    stretches,
    with_folders,
)
from rebake.release.documents import encode_files

NAMES = ("a", "a.py", "a/b", "a/c/d", "b", "b-c", "b/a", "z")
"""Names whose order depends on the slash behind a folder's."""


def _entry(name: str, kind: str, content: int) -> Entry:
    path = f"app/{name}".encode()
    return (path, LINK, 0, b"t%d" % content) if kind == LINK else (path, kind, content, bytes([content]) * 32)


def _chosen(given: dict[str, tuple[str, int]]) -> list[Entry]:
    """A layer's entries; what would lie below a file is left out."""
    kept = {name: what for name, what in given.items() if not any(name.startswith(f"{other}/") for other in given)}
    return with_folders(_entry(name, *what) for name, what in kept.items())


WHAT = st.tuples(st.sampled_from([FILE, PROGRAM, LINK]), st.sampled_from([0, 1, 2, 200]))
LAYERS = st.dictionaries(st.sampled_from(NAMES), WHAT).map(_chosen)


@given(LAYERS, LAYERS)
def test_stretches_and_entries_make_up_the_layer_in_its_order(old: list[Entry], entries: list[Entry]) -> None:
    at, offsets = 0, {}
    for entry in old:
        offsets[at] = entry
        at += entry_length(entry)
    made: list[Entry] = []
    for part in stretches(old, entries, at):
        if not isinstance(part, Copy):
            assert part not in old, "what the other layer holds is copied"
            made.append(part)
            continue
        here, end = part.offset, part.offset + part.length
        assert part.length > 0
        while here < end:
            made.append(offsets[here])
            here += entry_length(offsets[here])
        assert here == end
    assert made == entries


@given(LAYERS, LAYERS)
def test_a_renewed_file_list_is_the_one_written_from_nothing(old: list[Entry], entries: list[Entry]) -> None:
    assert renewed_file_list(encode_files(file_list(old)), old, entries) == encode_files(file_list(entries))
