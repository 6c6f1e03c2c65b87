from __future__ import annotations

import hashlib
import io
import tarfile

import pytest

from rebake.bake import tar


def member(header: bytes, content: bytes = b"") -> tarfile.TarInfo:
    data = header + content + tar.padding(len(content)) + tar.END
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        (found,) = archive.getmembers()
        if found.isfile():
            file = archive.extractfile(found)
            assert file is not None
            assert file.read() == content
        return found


@pytest.mark.parametrize(
    "path",
    [
        "app/a.py",
        "app/" + "long/" * 60 + "x",
        "app/ünïcode/日本.txt",
        "a" * 100,
        "a" * 101,
        "app/with\nnewline",
        "app/ x ",
    ],
)
def test_every_name_comes_back(path: str) -> None:
    content = b"hello"
    digest = hashlib.sha256(content).digest()
    found = member(tar.file_header(path.encode(), False, len(content), digest), content)
    assert (found.name, found.size, found.mode, found.uid, found.gid, found.uname) == (path, 5, 0o644, 0, 0, "")


@pytest.mark.parametrize("target", ["x", "../" * 50 + "x", "zïel"])
def test_every_link_target_comes_back(target: str) -> None:
    found = member(tar.link_header(b"app/link", target.encode()))
    assert found.issym()
    assert found.linkname == target


def test_a_file_of_more_than_eight_gibibytes_tells_its_size() -> None:
    size = (8 << 30) + 7
    header = tar.file_header(b"app/huge", True, size, bytes(32))
    info = tarfile.TarInfo.frombuf(header[-512:], "utf-8", "strict")
    assert b"size=%d\n" % size in header
    assert info.mode == 0o755


def test_a_folder_is_a_folder() -> None:
    found = member(tar.folder_header(b"app/templates"))
    assert found.isdir()
    assert (found.name, found.mode, found.mtime) == ("app/templates", 0o755, tar.EPOCH)


def test_other_content_of_the_same_size_has_another_time() -> None:
    """Or a browser that remembers time and size (nginx, Starlette) would keep yesterday's style sheet."""
    times = {tar.file_time(hashlib.sha256(b"color: #%03x" % n).digest()) for n in range(100)}
    assert len(times) == 100
    assert all(tar.EPOCH <= at < 1_500_000_000 for at in times)
