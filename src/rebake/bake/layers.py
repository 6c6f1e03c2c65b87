"""Writes layers: reads every file at most once, hashes while writing, copies what an older layer already holds.

The layer's hash runs in a second thread (hashlib lets go of the interpreter), so that a large tree costs about what
`tar | sha256sum` costs, and a small change in it only the copy and the hash.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import mmap
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rebake.bake import tar
from rebake.bake.plan import (
    FILE,
    FOLDER,
    LINK,
    PROGRAM,
    Copy,
    Entry,
    entry_header,
    file_list,
    renewed_file_list,
    stretches,
)
from rebake.bake.ports import Item, Seen
from rebake.bake.remember import is_young
from rebake.bake.secret import HEAD
from rebake.bake.walk import Stamp, stamp_of
from rebake.core.atomic import write_all
from rebake.errors import Permanent
from rebake.release.blobs import Pin, disk_errors
from rebake.release.documents import LAYER_TYPE, StoredLayer, encode_files
from rebake.release.manifest import Layer, LayerRole

_BUFFER = 1 << 20
_WHOLE = 16 << 20
"""Files up to this size are read into memory at once; larger ones twice, first for their digest."""

Chunk = bytes | bytearray | memoryview


class Changed(Exception):
    """A file is not the one the walk saw, or changed while it was read."""


@dataclass(frozen=True, slots=True)
class OldLayer:
    """A layer to copy from: its blob, known to be whole, the digest of its file list, and its entries."""

    stored: StoredLayer
    blob: Path
    entries: Sequence[Entry]

    def stretches(self, entries: Sequence[Entry]) -> Iterator[Copy | Entry]:
        return stretches(self.entries, entries, self.stored.layer.size - len(tar.END))

    def renewed_file_list(self, pin: Pin, entries: Sequence[Entry]) -> bytes:
        """The file list of other entries; written from nothing when the list of these is damaged."""
        try:
            return renewed_file_list(pin.read(self.stored.files), self.entries, entries)
        except Permanent:
            return encode_files(file_list(entries))


@dataclass(frozen=True, slots=True)
class Written:
    """A layer as written: what the image names, and its entries with all digests known."""

    stored: StoredLayer
    entries: list[Entry]


class Sink:
    """A file under way and its hash: one thread writes and one hashes what the caller puts in, in its order.

    Use as a context manager; `finish` gives the digest. Raises (put, copy, finish): OSError of the disk.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._hash = hashlib.sha256()
        self._to_hash: queue.Queue[Chunk | None] = queue.Queue(8)
        self._to_write: queue.Queue[Callable[[], None] | None] = queue.Queue(8)
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._hash_all, self._write_all)]
        self._buffer = bytearray()
        self._error: OSError | None = None
        self.size = 0

    def __enter__(self) -> Sink:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._join()
        os.close(self._file)

    def put(self, data: Chunk) -> None:
        self._buffer += data
        if len(self._buffer) >= _BUFFER:
            self._flush()

    def copy(self, source: int, mapped: memoryview, stretch: Copy) -> None:
        """Append a stretch of an open file.

        Args:
            mapped: the same file in memory, for the hash.
        """
        self._flush()
        part = mapped[stretch.offset : stretch.offset + stretch.length]
        self._send(part, partial(self._copy, source, stretch.offset, part))

    def finish(self) -> str:
        """The digest of everything, once it is written."""
        self._flush()
        self._join()
        if self._error is not None:
            raise self._error
        return "sha256:" + self._hash.hexdigest()

    def _flush(self) -> None:
        if self._buffer:
            chunk, self._buffer = self._buffer, bytearray()
            self._send(chunk, partial(self._write, chunk))

    def _send(self, chunk: Chunk, write: Callable[[], None]) -> None:
        if self._error is not None:
            raise self._error
        self._to_hash.put(chunk)
        self._to_write.put(write)

    def _join(self) -> None:
        if any(thread.is_alive() for thread in self._threads):
            self._to_hash.put(None)
            self._to_write.put(None)
        for thread in self._threads:
            thread.join()

    def _hash_all(self) -> None:
        while (chunk := self._to_hash.get()) is not None:
            self._hash.update(chunk)

    def _write_all(self) -> None:
        """After an error what follows is dropped, so that the caller never waits for a place in the queue."""
        while (write := self._to_write.get()) is not None:
            if self._error is None:
                try:
                    write()
                except OSError as error:
                    self._error = error

    def _write(self, chunk: Chunk) -> None:
        write_all(self._file, chunk)
        self.size += len(chunk)

    def _copy(self, source: int, offset: int, part: memoryview) -> None:
        """Copy inside the kernel where it can, which shares the blocks on some file systems; else write."""
        done = 0
        while done < len(part):
            try:
                step = os.copy_file_range(source, self._file, len(part) - done, offset_src=offset + done)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise
                step = 0
            if step == 0:
                self._write(part[done:])
                return
            done += step
            self.size += step


@contextlib.contextmanager
def _mapped(path: Path) -> Iterator[tuple[int, memoryview]]:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        populate = getattr(mmap, "MAP_POPULATE", 0)
        # not closed by hand: it goes with its last slice, which after an error may be held by that error's traceback
        yield handle, memoryview(mmap.mmap(handle, 0, flags=mmap.MAP_SHARED | populate, prot=mmap.PROT_READ))
    finally:
        os.close(handle)


class Reader:
    """Reads files of a tree and sees to it that each stays as the walk saw it.

    Args:
        root, prefix: a path in the image that begins with `prefix` is the file at `root` + the rest.
        items: what is elsewhere, or given as bytes, by path in the image.
        stamps: what the walk saw, by path below `root`; a file without a stamp is taken as it is.
        seen: told what cannot be baked.
        suspicious: asked with path and first bytes whether the content is a secret; None to ask nothing.
    """

    def __init__(  # noqa: PLR0917 one caller per kind of layer
        self,
        root: bytes,
        prefix: bytes,
        items: dict[bytes, Item],
        stamps: Mapping[bytes, Stamp],
        seen: Seen,
        suspicious: Callable[[bytes, bytes], bool] | None = None,
    ) -> None:
        self._root = root
        self._prefix = prefix
        self.items = items
        self._stamps = stamps
        self._seen = seen
        self._suspicious = suspicious

    def chunks(self, path: bytes) -> tuple[int, bytes, Iterable[bytes]]:
        """Size, SHA-256 and content of a file. What is wrong with it goes to `seen`; its content is then empty."""
        item = self.items.get(path)
        if item is not None and item.content is not None:
            return len(item.content), hashlib.sha256(item.content).digest(), (item.content,)
        source = item.source if item is not None else None
        if source is None:
            source = self._root + path.removeprefix(self._prefix)
        try:
            size, digest, chunks = self._read(source, path)
        except (Changed, FileNotFoundError, NotADirectoryError):
            self._seen.add("file-changed-while-read", _shown(path))
        except OSError as error:
            if error.errno == errno.ELOOP:
                self._seen.add("file-changed-while-read", _shown(path))
            else:
                self._seen.add("source-unreadable", f"{_shown(path)} ({os.strerror(error.errno or 0)})")
        else:
            return size, digest, chunks
        return 0, hashlib.sha256(b"").digest(), ()

    def _read(self, source: bytes, path: bytes) -> tuple[int, bytes, Iterable[bytes]]:
        handle = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            stat = os.fstat(handle)
            before = stamp_of(stat)
            walked = self._stamps.get(path.removeprefix(self._prefix), before)
            if walked != before and not _was_linked(walked, stat):
                raise Changed
            size = before[2]
            if size > _WHOLE:
                digest, head = _digest_of(handle, size)
                chunks: Iterable[bytes] = _again(source, size, digest)
            else:
                head = _exactly(handle, size)
                if is_young(before, time.time_ns()):
                    _still(handle, head)
                digest, chunks = hashlib.sha256(head).digest(), (head,)
            after = os.fstat(handle)
            if stamp_of(after) != before:
                if not _was_linked(before, after, names=stat.st_nlink):
                    raise Changed
                if size <= _WHOLE:  # of a larger one the second reading is compared anyway
                    _still(handle, head)
        finally:
            os.close(handle)
        if self._suspicious is not None and self._suspicious(path, head[:HEAD]):
            self._seen.add("likely-secret", _shown(path))
        return size, digest, chunks


def _was_linked(before: Stamp, after: os.stat_result, names: int = 1) -> bool:
    """Whether nothing but the ctime of a file with several names differs: it got another name, or lost one. What uv
    installs are names of files in its cache, and another bake gives them more at any time.

    Args:
        names: how many it had before, where that is known.
    """
    now = stamp_of(after)
    return (before[0], *before[2:]) == (now[0], *now[2:]) and max(names, after.st_nlink) > 1


def _exactly(handle: int, size: int) -> bytes:
    """The whole file of this size. Raises: Changed when it has another."""
    data = os.read(handle, size + 1)
    while 0 < len(data) < size and (more := os.read(handle, size + 1 - len(data))):
        data += more
    if len(data) != size:
        raise Changed
    return data


def _still(handle: int, data: bytes) -> None:
    """Read a young file again: a change within one tick of the file system's clock leaves no trace in the stamp.

    Raises: Changed.
    """
    os.lseek(handle, 0, os.SEEK_SET)
    if _exactly(handle, len(data)) != data:
        raise Changed


def _digest_of(handle: int, size: int) -> tuple[bytes, bytes]:
    """SHA-256 of a large file, and its first bytes. Raises: Changed."""
    state, total, head = hashlib.sha256(), 0, b""
    while chunk := os.read(handle, _BUFFER):
        head = head or chunk
        total += len(chunk)
        state.update(chunk)
    if total != size:
        raise Changed
    return state.digest(), head


def _again(source: bytes, size: int, digest: bytes) -> Iterator[bytes]:
    """A large file's content, read for the second time. Raises: Changed when it is not the same."""
    state, left = hashlib.sha256(), size
    with Path(os.fsdecode(source)).open("rb", buffering=0) as file:
        while left and (chunk := file.read(min(_BUFFER, left))):
            state.update(chunk)
            left -= len(chunk)
            yield chunk
        if left or file.read(1) or state.digest() != digest:
            raise Changed


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace").removeprefix("app/")


def entry_of(item: Item, size: int = 0, digest: bytes = b"") -> Entry:
    """The entry of an item; its digest may still be unknown."""
    if item.link is not None:
        return item.path, LINK, 0, item.link
    return item.path, PROGRAM if item.executable else FILE, size, digest


def write_layer(
    pin: Pin,
    role: LayerRole,
    ordered: list[Entry],
    reader: Reader,
    seen: Seen,
    *,
    old: OldLayer | None = None,
    meanwhile: Callable[[list[Entry]], None] | None = None,
) -> Written | None:
    """Write one layer into the store.

    Args:
        ordered: the entries as `with_folders` gives them; a token may be unknown, the reader then finds it.
        old: a layer that holds most of them already.
        meanwhile: called with the final entries while the last bytes are still being hashed and written.
    Returns: None when `seen` was told of something that cannot be baked.
    Raises: Permanent `disk-full`.
    """
    path = pin.temporary()
    with disk_errors(path.parent), contextlib.ExitStack() as stack:
        # the mapping outlives the sink, whose thread hashes slices of it
        handle, view = stack.enter_context(_mapped(old.blob)) if old else (-1, memoryview(b""))
        sink = stack.enter_context(Sink(path))
        known: dict[bytes, Entry] = {}
        for part in old.stretches(ordered) if old else ordered:
            if isinstance(part, Copy):
                sink.copy(handle, view, part)
            else:
                _append(sink, part, reader, seen, known)
        sink.put(tar.END)
        final = [known.get(entry[0], entry) for entry in ordered] if known else ordered
        # while the threads are at work
        files = pin.add(old.renewed_file_list(pin, final) if old else encode_files(file_list(final)))
        if meanwhile is not None:
            meanwhile(final)
        digest = sink.finish()
    if seen.offenders:
        return None
    pin.adopt(path, digest)
    layer = Layer(digest, digest, sink.size, LAYER_TYPE, role)
    return Written(StoredLayer(layer, files), final)


def _append(sink: Sink, entry: Entry, reader: Reader, seen: Seen, known: dict[bytes, Entry]) -> None:
    path, kind, _, _ = entry
    if kind in (FOLDER, LINK):
        sink.put(entry_header(entry))
        return
    size, digest, chunks = reader.chunks(path)
    final = known[path] = (path, kind, size, digest)
    sink.put(entry_header(final))
    try:
        for chunk in chunks:
            sink.put(chunk)
    except Changed:
        seen.add("file-changed-while-read", _shown(path))
    sink.put(tar.padding(size))
