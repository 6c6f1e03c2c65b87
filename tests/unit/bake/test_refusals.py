from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from rebake.bake import layers
from rebake.bake.secret import secret_by_content, secret_by_name
from rebake.errors import BakeError

from .conftest import Bake, next_tick, write

KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\n"


def refused(bake: Bake, source: Path, **options: object) -> BakeError:
    with pytest.raises(BakeError) as caught:
        bake(source, **options)
    return caught.value


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (".env", "A=1"),
        ("conf/.env.production", "A=1"),
        ("id_ed25519", "x"),
        ("tls/server.key", KEY),
        ("certs/all.pem", "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n" + KEY),
        ("innocent.txt", KEY),
        (".npmrc", "//registry.npmjs.org/:_authToken=npm_abc"),
        (".pypirc", "[pypi]\nusername = x\npassword = pypi-abc\n"),
        ("home/.aws/credentials", "[default]\naws_secret_access_key = abc\n"),
        ("sa.json", '{"type": "service_account", "private_key": "x"}'),
    ],
)
def test_a_likely_secret_is_refused_by_name(bake: Bake, source: Path, name: str, content: str) -> None:
    write(source, {"app.py": "1", name: content})
    error = refused(bake, source)
    assert error.code == "likely-secret"
    assert any(name in line for line in error.evidence)
    assert "exclude" in (error.remedy or "")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (".env.example", "A="),
        ("env.py", "x"),
        ("public.pem", "-----BEGIN PUBLIC KEY-----\nx"),
        (".npmrc", "//registry.npmjs.org/:_authToken=${NPM_TOKEN}\nsave-exact=true"),
        ("docs/keys.md", "write -----BEGIN PRIVATE KEY----- at the start"),
        ("key.json", '{"type": "oauth", "private_key": null}'),
    ],
)
def test_what_only_looks_alike_goes_in(bake: Bake, source: Path, name: str, content: str) -> None:
    write(source, {"app.py": "1", name: content})
    assert bake(source).release.digest
    assert not secret_by_name(name.encode())
    assert not secret_by_content(name.encode(), content.encode())


def test_a_secret_that_is_ignored_is_just_left_out(bake: Bake, source: Path) -> None:
    write(source, {"app.py": "1", ".env": "A=1", "tls.key": KEY, ".gitignore": ".env\n"})
    plain = write(source.parent / "plain", {"app.py": "1"})
    assert bake(source, exclude=("tls.key",)).release.digest == bake(plain).release.digest


def test_a_wanted_file_is_let_in_by_its_exact_name_only(bake: Bake, source: Path) -> None:
    write(source, {"app.py": "1", "tests/dummy.key": KEY})
    assert bake(source, exclude=("!tests/dummy.key",)).release.digest
    assert refused(bake, source, exclude=("!tests/*",)).code == "likely-secret"


def test_a_file_that_was_let_in_is_refused_again_once_its_line_is_gone(bake: Bake, source: Path) -> None:
    write(source, {"app.py": "1", "dummy.key": KEY, ".dockerignore": "!dummy.key\n"})
    assert bake(source).release.digest
    (source / ".dockerignore").write_text("# nothing\n")
    assert refused(bake, source).code == "likely-secret"


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "sub/../../outside"])
def test_a_link_that_leaves_the_tree_is_refused(bake: Bake, source: Path, target: str) -> None:
    write(source, {"app.py": "1", "sub/x": "1"})
    (source / "link").symlink_to(target)
    error = refused(bake, source)
    assert error.code == "link-leaves-tree"
    assert f"link -> {target}" in error.evidence[0]


def test_a_link_that_leaves_through_another_link_is_refused(bake: Bake, source: Path) -> None:
    """Letter by letter `sub/here/../..` stays inside; but `sub/here` is `sub` itself."""
    write(source, {"app.py": "1", "sub/x": "1"})
    (source / "sub" / "here").symlink_to(".")
    (source / "sub" / "sly").symlink_to("here/../..")
    assert refused(bake, source).code == "link-leaves-tree"


def test_links_inside_go_in_as_links(bake: Bake, source: Path, store: object) -> None:
    write(source, {"app.py": "1", "sub/x": "1"})
    (source / "sub" / "up").symlink_to("../app.py")
    (source / "dangling").symlink_to("later")
    result = bake(source)
    links = {e.path: e.link for e in store.files(result.release) if e.link}  # type: ignore[attr-defined]
    assert links == {"app/sub/up": "../app.py", "app/dangling": "later"}


def test_pipes_sockets_and_devices_are_refused_together(bake: Bake, source: Path) -> None:
    write(source, {"app.py": "1", ".env": "A=1"})
    os.mkfifo(source / "pipe")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(os.fspath(source / "sock"))
    error = refused(bake, source)
    assert error.code == "likely-secret"
    assert [line.split(":")[0] for line in error.evidence] == [".env", "pipe", "sock"]
    assert "2 more" in error.problem


def test_a_name_that_is_not_utf8_is_refused(bake: Bake, source: Path) -> None:
    write(source, {"app.py": "1"})
    Path(os.fsdecode(os.fsencode(source) + b"/caf\xe9")).write_text("x")
    error = refused(bake, source)
    assert error.code == "name-not-utf8"
    assert "caf\\xe9" in error.evidence[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_an_unreadable_file_is_refused(bake: Bake, source: Path, tmp_path: Path) -> None:
    write(source, {"app.py": "1", "locked": "1", "closed/x": "1"})
    for path in (*tmp_path.parents, tmp_path):
        if path.stat().st_mode & 0o005 != 0o005 and path.stat().st_uid == 0 and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o005)
    (tmp_path / "store").mkdir(mode=0o777)
    (tmp_path / "store").chmod(0o777)
    (source / "locked").chmod(0)
    (source / "closed").chmod(0)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgid(65534)
            os.setuid(65534)
            error = refused(bake, source)
            first = error.code == "source-unreadable"
            (source / "closed").is_dir()
            status = 0 if first and "closed" in error.evidence[0] else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_file_that_changes_while_it_is_read_is_refused(
    bake: Bake, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(source, {"app.py": "1", "busy.log": "line\n" * 10})
    read = layers._exactly

    def grows(handle: int, size: int) -> bytes:
        with (source / "busy.log").open("a") as log:
            log.write("more\n")
        return read(handle, size)

    monkeypatch.setattr(layers, "_exactly", grows)
    error = refused(bake, source)
    assert error.code == "file-changed-while-read"
    assert error.evidence == ("busy.log: changed while it was read",)


def test_a_file_rewritten_with_the_same_size_behind_the_reader_is_refused(
    bake: Bake, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(source, {"app.py": "1", "busy.db": "aaaa"})
    read = layers._exactly

    def rewritten(handle: int, size: int) -> bytes:
        content = read(handle, size)
        next_tick(source.parent)
        (source / "busy.db").write_text("bbbb")
        return content

    monkeypatch.setattr(layers, "_exactly", rewritten)
    assert refused(bake, source).code == "file-changed-while-read"


def test_a_file_that_gets_another_name_while_it_is_read_has_not_changed(
    bake: Bake, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As what uv installs does, when another bake installs the same: both are names of one file in its cache."""
    write(source, {"app.py": "1"})
    names = source.parent / "names"
    names.mkdir()
    (names / "first").hardlink_to(source / "app.py")
    read = layers._exactly

    def linked(handle: int, size: int) -> bytes:
        content = read(handle, size)
        next_tick(source.parent)
        (names / f"{len(list(names.iterdir()))}").hardlink_to(source / "app.py")
        return content

    monkeypatch.setattr(layers, "_exactly", linked)
    assert bake(source).release.digest


def test_a_file_with_several_names_that_is_rewritten_under_its_old_time_is_refused(
    bake: Bake, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(source, {"app.py": "1", "busy.db": "aaaa"})
    other, read = source.parent / "other", layers._exactly
    other.hardlink_to(source / "busy.db")

    def rewritten(handle: int, size: int) -> bytes:
        content, stat = read(handle, size), other.stat()
        next_tick(source.parent)
        if content == b"aaaa":
            other.write_text("bbbb")
            os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        return content

    monkeypatch.setattr(layers, "_exactly", rewritten)
    assert refused(bake, source).code == "file-changed-while-read"


def test_a_large_file_that_changes_between_its_two_readings_is_refused(
    bake: Bake, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(source, {"app.py": "1", "big.bin": bytes(3000)})
    monkeypatch.setattr(layers, "_WHOLE", 1000)
    again = layers._again

    def swapped(path: bytes, size: int, digest: bytes) -> object:
        (source / "big.bin").write_bytes(b"x" * 3000)
        return again(path, size, digest)

    monkeypatch.setattr(layers, "_again", swapped)
    assert refused(bake, source).code == "file-changed-while-read"


def test_a_refused_bake_leaves_no_release_and_no_temporary_file(bake: Bake, source: Path, store: object) -> None:
    write(source, {"app.py": "1", "innocent.txt": KEY})
    refused(bake, source)
    assert store.releases() == ()  # type: ignore[attr-defined]
    assert list(store.blobs.temporary.iterdir()) == []  # type: ignore[attr-defined]
    assert list(store.blobs.pins.iterdir()) == []  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("prepare", "options", "code"),
    [
        ({}, {}, "source-empty"),
        ({"a": "1"}, {"exclude": ("*",)}, "source-empty"),
        ({"a": "1"}, {"builder": "rust"}, "builder-unknown"),
        ({"a": "1"}, {"base": "debian:12"}, "wrong-reference"),
        ({"a": "1"}, {"build": "compile"}, "build-unsupported"),
        ({"a": "1", "pyproject.toml": "name ="}, {"builder": "python"}, "pyproject-unreadable"),
        ({"a": "1", "package.json": "{"}, {"builder": "node"}, "package-json"),
    ],
)
def test_a_request_that_cannot_be_met_says_why(
    bake: Bake, source: Path, prepare: dict[str, str], options: dict[str, object], code: str
) -> None:
    write(source, prepare)
    error = refused(bake, source, **options)
    assert error.code == code
    assert error.remedy


def test_a_missing_source_is_named(bake: Bake, tmp_path: Path) -> None:
    assert refused(bake, tmp_path / "nowhere").code == "source-missing"
    write(tmp_path, {"file": "1"})
    assert "a file" in refused(bake, tmp_path / "file").problem
