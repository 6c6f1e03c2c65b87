"""The application layer: walk the source, read what changed, write the layer or find that it is the last one."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rebake.bake import remember
from rebake.bake.ignore import RULES, Rules, gitignores_above
from rebake.bake.layers import OldLayer, Reader, entry_of, write_layer
from rebake.bake.plan import FILE, LINK, PROGRAM, Entry, with_folders
from rebake.bake.ports import Application, Item, Seen
from rebake.bake.refusals import refuse
from rebake.bake.secret import secret_by_content
from rebake.bake.source import Source, load_patterns
from rebake.bake.walk import Found, Walker, folder_times_are_exact, leaves_tree, stamp_of
from rebake.core.digest import digest_bytes, digest_of
from rebake.errors import BakeError, Permanent
from rebake.release.blobs import Pin, disk_errors
from rebake.release.documents import LAYER_TYPE, StoredLayer
from rebake.release.manifest import Layer
from rebake.release.store import Store

_PREFIX = b"app/"
_PREFETCH = 64 << 20
"""Changed files up to this many bytes are read before the layer is begun: often their content did not change."""


@dataclass(frozen=True, slots=True)
class ApplicationLayer:
    """The layer, and whether it is the one of the last bake, untouched."""

    stored: StoredLayer
    reused: bool


@dataclass(frozen=True, slots=True)
class _Notes:
    """What is to be remembered of a walk: the draft, and the digests of the files that are too young to be trusted."""

    draft: remember.Draft
    young: dict[bytes, bytes]


class ApplicationBaker:
    """Bakes one source folder into its application layer.

    Args:
        application: what the builder adds and hides.
        index: where to remember the folder.
    """

    def __init__(self, store: Store, pin: Pin, source: Source, application: Application, index: Path) -> None:
        self._store = store
        self._pin = pin
        self._source = source
        self._application = application
        self._index = index
        self._seen = Seen()
        self._restamped = False
        self._extra = _extra_entries(application.extra)
        self._rules = Rules(source.root, load_patterns(source), git=source.follow_ignores)
        self._rules_key = digest_of(
            {
                "rules": RULES,
                "exclude": list(source.exclude),
                "hidden": [name.decode() for name in application.hidden],
                "above": [[way_down, digest_bytes(f.read_bytes())] for f, way_down in gitignores_above(source.root)]
                if source.follow_ignores
                else [],
            }
        )

    def bake(self) -> ApplicationLayer:
        """Raises: BakeError by the codes of `refusals.REFUSALS`, `source-empty`; Permanent `disk-full`."""
        read_at = time.time_ns()
        tree = self._remembered()
        found = self._walk(tree)
        if tree is not None and not self._same_steering(tree, found):
            tree, found = None, self._walk(None)
        self._refuse_links(found)
        refuse(self._seen, self._source.name)
        if not found.files:
            raise BakeError(
                "source-empty",
                f"no file of {self._source.name} is left to bake",
                where=self._source.name,
                remedy="look at .dockerignore, .gitignore and `exclude`: together they leave everything out",
            )
        if tree is None:
            return self._write(None, found, with_folders(_entries(found, {}, self._extra)), read_at)
        return self._bake_again(tree, found, read_at)

    def _bake_again(self, tree: remember.Tree, found: Found, read_at: int) -> ApplicationLayer:
        """Bake what was baked before: only what has another stamp is read, and often it did not change after all."""
        same_items = found.links == tree.found.links and self._extra == tree.extra
        same_names = same_items and found.files.keys() == tree.found.files.keys()
        last = tree.found.files
        changed = [path for path, stamp in found.files.items() if last.get(path) != stamp]
        reader = self._reader(found)
        digests = self._prefetch(changed, found, reader)
        if same_names and all(_as_young(tree, found, digests, path) for path in changed):
            return self._keep(tree, found, tree.young, read_at)
        old = tree.entries()
        if same_names:
            # the list differs in the changed files alone, and keeps its order
            added = {entry[0] for entry in self._extra}
            part = Found({path: found.files[path] for path in changed})
            renewed = {entry[0]: entry for entry in _entries(part, digests, ()) if entry[0] not in added}
            entries = [renewed.get(entry[0], entry) for entry in old]
        else:
            known = {entry[0][len(_PREFIX) :]: entry[3] for entry in old if entry[1] in (FILE, PROGRAM)}
            for hidden in [*changed, *(entry[0].removeprefix(_PREFIX) for entry in tree.extra)]:
                known.pop(hidden, None)
            entries = with_folders(_entries(found, known | digests, self._extra))
        if entries == old:
            return self._keep(tree, found, digests, read_at)
        last_layer = OldLayer(_stored(tree), self._store.blob_path(tree.layer), old)
        return self._write(last_layer, found, entries, read_at, reader)

    def _keep(
        self, tree: remember.Tree, found: Found, digests: Mapping[bytes, bytes], read_at: int
    ) -> ApplicationLayer:
        """The layer is the last one; remember the stamps if they say more than before."""
        if self._restamped or found != tree.found:
            settled = remember.settle(found, read_at)
            if self._restamped or settled != tree.found:
                known = {**tree.young, **digests}
                young = {p: known[p] for p, stamp in settled.files.items() if stamp[0] == -1 and p in known}
                self._save(_Notes(self._draft(settled, tree.packed), young), _stored(tree))
        return ApplicationLayer(_stored(tree), True)

    # -- what is remembered --------------------------------------------------------------------------------------

    def _remembered(self) -> remember.Tree | None:
        tree = remember.load(self._index)
        if tree is None or tree.rules != self._rules_key:
            return None
        self._pin.hold([tree.layer, tree.files])
        if not self._whole(tree):
            return None
        return tree

    def _whole(self, tree: remember.Tree) -> bool:
        """The remembered layer is in the store as it was written; if somebody touched the file, it is read to see."""
        try:
            stamp = stamp_of(self._store.blob_path(tree.layer).stat())
            if not self._store.blobs.has(tree.files):
                return False
            if stamp != tree.blob:
                self._store.verify(tree.layer)
                self._restamped = True
        except (FileNotFoundError, Permanent):
            return False
        return True

    def _same_steering(self, tree: remember.Tree, found: Found) -> bool:
        """The ignore files are those of the last bake; one with another stamp is read to see."""
        if found.steering == tree.found.steering:
            return True
        return self._steering_digests(found) == tree.steering

    def _steering_digests(self, found: Found) -> dict[bytes, bytes]:
        digests = {}
        for path in found.steering:
            with contextlib.suppress(OSError):
                digests[path] = hashlib.sha256(Path(self._source.name, os.fsdecode(path)).read_bytes()).digest()
        return digests

    # -- walking and writing ---------------------------------------------------------------------------------------

    def _walk(self, tree: remember.Tree | None) -> Found:
        self._seen = Seen()
        last = tree.found if tree else None
        return Walker(
            self._source.root,
            self._rules,
            self._seen,
            hidden=self._application.hidden,
            last=last,
            trust_folders=last is not None and folder_times_are_exact(self._source.root),
        ).walk()

    def _refuse_links(self, found: Found) -> None:
        for path, target in found.links.items():
            if leaves_tree(self._source.root, path, target):
                self._seen.add("link-leaves-tree", f"{os.fsdecode(path)} -> {os.fsdecode(target)}")

    def _write(
        self, old: OldLayer | None, found: Found, entries: list[Entry], read_at: int, reader: Reader | None = None
    ) -> ApplicationLayer:
        notes: list[_Notes] = []
        written = write_layer(
            self._pin,
            "application",
            entries,
            reader or self._reader(found),
            self._seen,
            old=old,
            meanwhile=lambda final: notes.append(self._notes(found, final, read_at)),
        )
        refuse(self._seen, self._source.name)
        assert written is not None
        self._save(notes[0], written.stored)
        return ApplicationLayer(written.stored, False)

    def _notes(self, found: Found, entries: list[Entry], read_at: int) -> _Notes:
        settled = remember.settle(found, read_at)
        young = {_PREFIX + path for path, stamp in settled.files.items() if stamp[0] == -1}
        if young:
            young.difference_update(entry[0] for entry in self._extra)
        digests = {entry[0][len(_PREFIX) :]: entry[3] for entry in entries if entry[0] in young} if young else {}
        return _Notes(self._draft(settled, entries), digests)

    def _draft(self, settled: Found, entries: list[Entry] | remember.Packed) -> remember.Draft:
        with disk_errors(self._store.root):
            return remember.Draft(self._pin.temporary(), settled, entries)

    def _reader(self, found: Found) -> Reader:
        added = {item.path: item for item in self._application.extra}
        return Reader(self._source.root + b"/", _PREFIX, added, found.files, self._seen, self._suspicious)

    def _suspicious(self, path: bytes, head: bytes) -> bool:
        name = path.removeprefix(_PREFIX)
        return secret_by_content(name, head) and not self._rules.keeps_by_name(name)

    def _prefetch(self, changed: list[bytes], found: Found, reader: Reader) -> dict[bytes, bytes]:
        """Read the changed files now, into the reader; their digests. Nothing, if they are very large together."""
        if sum(found.files[path][2] for path in changed) > _PREFETCH:
            return {}
        digests = {}
        for path in changed:
            _, digests[path], chunks = reader.chunks(_PREFIX + path)
            reader.items.setdefault(_PREFIX + path, Item(_PREFIX + path, content=b"".join(chunks)))
        refuse(self._seen, self._source.name)
        return digests

    def _save(self, notes: _Notes, stored: StoredLayer) -> None:
        tree = remember.Tree(
            rules=self._rules_key,
            found=notes.draft.found,
            young=notes.young,
            extra=self._extra,
            steering=self._steering_digests(notes.draft.found),
            layer=stored.layer.digest,
            size=stored.layer.size,
            files=stored.files,
            blob=stamp_of(self._store.blob_path(stored.layer.digest).stat()),
            packed=notes.draft.packed,
        )
        with disk_errors(self._store.root):
            notes.draft.save(self._index, tree)


def _as_young(tree: remember.Tree, found: Found, digests: Mapping[bytes, bytes], path: bytes) -> bool:
    """A file that was too young to be trusted has the content and the permission it had then."""
    same_mode = (found.files[path][4] ^ tree.found.files[path][4]) & 0o100 == 0
    return same_mode and path in digests and digests[path] == tree.young.get(path)


def _entries(found: Found, known: Mapping[bytes, bytes], extra: Iterable[Entry]) -> list[Entry]:
    """The layer's entries, unsorted; a digest may be unknown. What the builder adds hides what the source holds."""
    entries: list[Entry] = [
        (_PREFIX + path, PROGRAM if stamp[4] & 0o100 else FILE, stamp[2], known.get(path, b""))
        for path, stamp in found.files.items()
    ]
    entries += [(_PREFIX + path, LINK, 0, target) for path, target in found.links.items()]
    if added := {entry[0]: entry for entry in extra}:
        entries = [entry for entry in entries if entry[0] not in added] + list(added.values())
    return entries


def _extra_entries(items: Iterable[Item]) -> list[Entry]:
    return sorted(
        entry_of(item, len(item.content or b""), hashlib.sha256(item.content or b"").digest()) for item in items
    )


def _stored(tree: remember.Tree) -> StoredLayer:
    return StoredLayer(Layer(tree.layer, tree.layer, tree.size, LAYER_TYPE, "application"), tree.files)
