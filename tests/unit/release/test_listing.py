"""The file list that is read off a layer is the one that the bake wrote."""

from __future__ import annotations

import hashlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebake.bake import tar
from rebake.bake.plan import FILE, LINK, PROGRAM, Entry, entry_header, file_list, with_folders
from rebake.release.documents import encode_files
from rebake.release.listing import listed

NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=160)
PATHS = st.lists(NAMES.filter(lambda name: name not in (".", "..")), min_size=1, max_size=3).map("/".join)
FILES = st.dictionaries(PATHS, st.tuples(st.sampled_from([FILE, PROGRAM, LINK]), st.binary(min_size=1)), max_size=8)


def layer_of(contents: dict[str, tuple[str, bytes]]) -> tuple[bytes, list[Entry]]:
    entries: list[Entry] = []
    for path, (kind, data) in contents.items():
        token = data.hex().encode() if kind == LINK else hashlib.sha256(data).digest()
        entries.append((f"app/{path}".encode(), kind, 0 if kind == LINK else len(data), token))
    out = b""
    for entry in with_folders(entries):
        out += entry_header(entry)
        if entry[1] in (FILE, PROGRAM):
            data = contents[entry[0].decode().removeprefix("app/")][1]
            out += data + tar.padding(len(data))
    return out + tar.END, with_folders(entries)


@given(FILES)
def test_what_a_layer_holds_is_listed_as_the_bake_lists_it(contents: dict[str, tuple[str, bytes]]) -> None:
    layer, entries = layer_of(contents)
    assert listed(io.BytesIO(layer)) == encode_files(file_list(entries))


@pytest.mark.parametrize("data", [b"no tar at all", b""])
def test_what_is_no_layer_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="no tar"):
        listed(io.BytesIO(data))
