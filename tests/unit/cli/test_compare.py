"""What a diff says: files, packages, run contract, settings; and nothing when nothing differs."""

from __future__ import annotations

from dataclasses import replace

from rebake.cli.compare import Side, difference, lines_of
from rebake.release.documents import FileEntry
from rebake.release.manifest import Health, Package, Release, RunContract

A = Release(
    "sha256:" + "a" * 64, "shop", "python", RunContract(("python", "-m", "shop")), (), (Package("flask", "3.0"),)
)
B = replace(
    A,
    digest="sha256:" + "b" * 64,
    run=RunContract(("python", "-m", "shop"), health=Health(path="/up"), env={"MODE": "fast"}),
    packages=(Package("flask", "3.1"), Package("gunicorn", "23.0")),
)
FILES = (FileEntry("app/a.py", 0o644, 10, "sha256:1"), FileEntry("app/b.py", 0o644, 20, "sha256:2"))


def test_a_release_and_itself() -> None:
    doc = difference(Side("x", A, FILES), Side("y", A, FILES))
    assert doc["same"] is True
    assert "nothing differs" in lines_of(doc)[1]


def test_every_kind_of_change() -> None:
    after = (FileEntry("app/a.py", 0o644, 11, "sha256:9"), FileEntry("app/c.py", 0o755, 1, "sha256:3"))
    before_revision = {"digest": "sha256:r1", "settings": {"env": {"GREETING": "hello"}, "secrets": {}}}
    after_revision = {"digest": "sha256:r2", "settings": {"env": {"GREETING": "welcome"}, "secrets": {}}}
    doc = difference(Side("stable", A, FILES, before_revision), Side("candidate", B, after, after_revision))
    assert doc["same"] is False
    assert [(change["path"], change["kind"]) for change in doc["files"]] == [
        ("app/a.py", "changed"),
        ("app/b.py", "removed"),
        ("app/c.py", "added"),
    ]
    assert doc["packages"] == [
        {"key": "flask", "a": "3.0", "b": "3.1"},
        {"key": "gunicorn", "a": None, "b": "23.0"},
    ]
    assert doc["run"] == [
        {"key": "env.MODE", "a": None, "b": "fast"},
        {"key": "health.path", "a": "/healthz", "b": "/up"},
    ]
    assert doc["settings"] == [{"key": "env.GREETING", "a": "hello", "b": "welcome"}]
    text = "\n".join(lines_of(doc))
    assert "env.GREETING: hello to welcome" in text
    assert "gunicorn: none to 23.0" in text
    assert "+ app/c.py" in text


def test_a_file_that_became_executable_is_changed() -> None:
    doc = difference(Side("x", A, FILES[:1]), Side("y", A, (FileEntry("app/a.py", 0o755, 10, "sha256:1"),)))
    assert [change["kind"] for change in doc["files"]] == ["changed"]


def test_thousands_of_dependency_files_are_counted_not_listed() -> None:
    many = tuple(FileEntry(f"deps/lib/{n}.py", 0o644, 1, "sha256:5") for n in range(5000))
    own = tuple(FileEntry(f"app/{n:03}.py", 0o644, 1, "sha256:5") for n in range(100))
    doc = difference(Side("x", A), Side("y", B, own + many))
    lines = lines_of(doc)
    assert len(doc["files"]) == 5100
    assert len(lines) < 70
    assert "files: 100 files of the application, 5000 of dependencies" in "\n".join(lines)
    assert "and 60 more" in lines[-1]
