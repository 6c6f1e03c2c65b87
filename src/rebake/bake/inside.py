"""What stands in the files of a base's layers. Slow the first time, since layers are archives: remembered.

Source: OCI image-spec v1.1, layer.md, Whiteouts; passwd(5), group(5).
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator

from rebake.bake.bases import Base
from rebake.bake.ports import Memo
from rebake.core.digest import digest_of
from rebake.release.store import Store

_LARGEST = 32 << 20


def files(store: Store, base: Base, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Regular files of the base, each with its name without a slash before it; the uppermost layer's come first.

    Args:
        base: its layers are in the store.
        wanted: told by the name.
    """
    for layer in reversed(base.layers):
        with tarfile.open(store.blob_path(layer.layer.digest)) as tar:
            for member in tar:
                name = member.name.removeprefix("./").lstrip("/")
                if member.isreg() and wanted(name) and member.size <= _LARGEST:
                    file = tar.extractfile(member)
                    if file is not None:
                        yield name, file.read()


def user_number(store: Store, base: Base, memo: Memo) -> str:
    """Whom the base runs as, by number, since a cluster and a mount do not know the image's names.

    What the base's `/etc/passwd` and `/etc/group` do not know stays a name, and the engine refuses it.
    """
    user, colon, group = base.user.partition(":")
    if all(not name or name.isdigit() for name in (user, group)):
        return base.user
    key = digest_of([base.user, *(layer.layer.digest for layer in base.layers)])
    known = memo.get("users", key)
    if not isinstance(known, str):
        known = f"{_number(store, base, 'etc/passwd', user)}{colon}{_number(store, base, 'etc/group', group)}"
        memo.put("users", key, known)
    return known


def _number(store: Store, base: Base, table: str, name: str) -> str:
    if not name or name.isdigit():
        return name
    for _, data in files(store, base, table.__eq__):
        for line in data.decode("utf-8", "surrogateescape").splitlines():
            row = line.split(":")
            if row[0] == name and len(row) > 2 and row[2].isdigit():
                return row[2]
        break  # the table of a layer below is hidden by this one
    return name
