"""Layers that attack, and layers that are damaged."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from rebake.errors import Permanent
from rebake.platforms.local.unpack import extract, safe_link, safe_parts
from rebake.testing.releases import tar_of

Member = tuple[tarfile.TarInfo, bytes]


def file(path: str, data: bytes = b"x", mode: int = 0o644) -> Member:
    member = tarfile.TarInfo(path)
    member.size, member.mode = len(data), mode
    return member, data


def special(path: str, kind: bytes, target: str = "") -> Member:
    member = tarfile.TarInfo(path)
    member.type, member.linkname = kind, target
    return member, b""


def layer(folder: Path, *members: Member) -> tuple[Path, str]:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for member, data in members:
            tar.addfile(member, io.BytesIO(data))
    blob = folder / "blob"
    blob.write_bytes(out.getvalue())
    return blob, "sha256:" + hashlib.sha256(out.getvalue()).hexdigest()


@pytest.fixture
def into(tmp_path: Path) -> Path:
    folder = tmp_path / "into"
    folder.mkdir()
    return folder


def test_files_folders_and_links_come_out_as_they_went_in(tmp_path: Path, into: Path) -> None:
    blob, digest = layer(
        tmp_path,
        special("app", tarfile.DIRTYPE),
        file("./app/a.py", b"one"),
        file("app/bin/run", b"#!", 0o755),
        special("app/link", tarfile.SYMTYPE, "bin/run"),
        special("app/node_modules", tarfile.SYMTYPE, "../deps/node_modules"),
    )
    found = extract(blob, digest, into)
    assert found == {"app/a.py": hashlib.sha256(b"one").hexdigest(), "app/bin/run": hashlib.sha256(b"#!").hexdigest()}
    assert (into / "app/link").read_bytes() == b"#!"
    assert (into / "app/bin/run").stat().st_mode & 0o111
    assert not (into / "app/a.py").stat().st_mode & 0o111


ATTACKS: dict[str, list[Member]] = {
    "an absolute path": [file("/etc/cron.d/evil")],
    "a path that climbs": [file("app/../../evil")],
    "a place of its own": [file("etc/evil")],
    "a device": [special("app/null", tarfile.CHRTYPE)],
    "a pipe": [special("app/pipe", tarfile.FIFOTYPE)],
    "a hard link": [file("app/a"), special("app/b", tarfile.LNKTYPE, "app/a")],
    "an absolute link": [special("app/passwd", tarfile.SYMTYPE, "/etc/passwd")],
    "a link that climbs": [special("app/up", tarfile.SYMTYPE, "../../up")],
    "a file behind a link": [special("app/d", tarfile.SYMTYPE, "../deps"), file("app/d/evil")],
    "a file over a link": [special("app/a", tarfile.SYMTYPE, "b"), file("app/a")],
    "a file twice": [file("app/a", b"1"), file("app/a", b"2")],
    "a folder over a file": [file("app/a"), file("app/a/b")],
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_sealed_layer_is_refused_for(attack: str, tmp_path: Path, into: Path) -> None:
    blob, digest = layer(tmp_path, *ATTACKS[attack])
    with pytest.raises(Permanent) as refusal:
        extract(blob, digest, into)
    assert refusal.value.code == "release-damaged"
    assert not (tmp_path / "evil").exists()


def _flip(data: bytes) -> bytes:
    return data.replace(b"content", b"CONTENT")


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "changed": _flip,
    "cut off": lambda data: data[:700],
    "longer": lambda data: data + b"more",
    "empty": lambda data: b"",
    "something else": lambda data: b"\x1f\x8b" + b"z" * 2000,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_bytes_that_do_not_match_the_digest_are_refused_as_such(damage: str, tmp_path: Path, into: Path) -> None:
    data = tar_of({"app/a": "content"})
    blob = tmp_path / "blob"
    blob.write_bytes(DAMAGES[damage](data))
    with pytest.raises(Permanent, match="expected a layer of sha256:") as refusal:
        extract(blob, "sha256:" + hashlib.sha256(data).hexdigest(), into)
    assert refusal.value.code == "release-damaged"


def test_a_layer_that_is_not_there_is_refused(tmp_path: Path, into: Path) -> None:
    with pytest.raises(Permanent, match="missing from the store"):
        extract(tmp_path / "nothing", "sha256:" + "0" * 64, into)


def test_a_layer_that_is_no_archive_is_refused_although_its_digest_fits(tmp_path: Path, into: Path) -> None:
    data = b"not a tar" * 200
    (tmp_path / "blob").write_bytes(data)
    with pytest.raises(Permanent, match="not a tar archive"):
        extract(tmp_path / "blob", "sha256:" + hashlib.sha256(data).hexdigest(), into)


@pytest.mark.parametrize(
    ("name", "parts"), [("app/", ("app",)), (".", ()), ("app//x", ("app", "x")), ("apple/x", None)]
)
def test_paths(name: str, parts: tuple[str, ...] | None) -> None:
    assert safe_parts(name) == parts


@pytest.mark.parametrize(
    ("target", "safe"), [("b", True), ("../deps/x", True), ("../etc", False), ("../..", False), ("/app/x", False)]
)
def test_links(target: str, safe: bool) -> None:
    assert safe_link(("app", "a"), target) is safe
