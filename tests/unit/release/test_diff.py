from __future__ import annotations

from dataclasses import replace

from rebake.release.diff import ReleaseView, diff
from rebake.release.documents import FileEntry
from rebake.release.manifest import Health, Package, Release, RunContract, Runtime, SecretVersion, Settings

RELEASE = Release(
    digest="sha256:" + "a" * 64,
    service="svc",
    builder="python",
    run=RunContract(("python", "-m", "app"), 8080, env={"A": "1"}),
    layers=(),
    packages=(Package("flask", "3.0.0"), Package("six", "1.0")),
    runtime=Runtime("python", "3.11", "any"),
)
FILES = (
    FileEntry("app/a.py", 0o644, 1, "sha256:1"),
    FileEntry("app/b.py", 0o644, 1, "sha256:2"),
    FileEntry("app/run", 0o644, 1, "sha256:3"),
    FileEntry("deps/lib/flask.py", 0o644, 1, "sha256:4"),
)
VIEW = ReleaseView("one", RELEASE, FILES, Settings({"GREETING": "hi"}, {"TOKEN": SecretVersion("file:/t", "v1")}))


def test_a_release_and_itself_are_the_same() -> None:
    found = diff(VIEW, VIEW)
    assert found.same
    assert found.to_json()["same"] is True
    assert found.sentences() == [
        "aaaaaaaaaaaa and aaaaaaaaaaaa are the same in files, packages, run contract and settings"
    ]


def test_every_kind_of_change_is_told() -> None:
    run = replace(RELEASE.run, command=("gunicorn",), health=Health(path="/up", timeout_ms=500), env={"B": "2"})
    other = replace(
        RELEASE,
        digest="sha256:" + "b" * 64,
        run=run,
        packages=(Package("flask", "3.1.0"), Package("new", "1")),
        runtime=Runtime("python", "3.12", "linux/amd64"),
    )
    files = (
        FileEntry("app/a.py", 0o644, 1, "sha256:9"),
        FileEntry("app/c.py", 0o644, 1, "sha256:2"),
        FileEntry("app/run", 0o755, 1, "sha256:3"),
        FileEntry("deps/lib/flask.py", 0o644, 1, "sha256:5"),
    )
    settings = Settings({"GREETING": "hello"}, {"TOKEN": SecretVersion("file:/t", "v2")})
    found = diff(VIEW, ReleaseView("two", other, files, settings))
    assert found.to_json()["files"] == {
        "added": ["app/c.py"],
        "removed": ["app/b.py"],
        "changed": ["app/a.py", "app/run", "deps/lib/flask.py"],
    }
    assert {(c.key, c.before, c.after) for c in found.packages} == {
        ("flask", "3.0.0", "3.1.0"),
        ("six", "1.0", None),
        ("new", None, "1"),
    }
    assert {(c.key, c.before, c.after) for c in found.run} == {
        ("run.command", "python -m app", "gunicorn"),
        ("run.health.path", "/healthz", "/up"),
        ("run.health.timeout", "2s", "500ms"),
        ("run.env.A", "1", None),
        ("run.env.B", None, "2"),
        ("runtime", "python 3.11 any", "python 3.12 linux/amd64"),
    }
    assert [c.sentence() for c in found.settings] == [
        "env.GREETING: hi → hello",
        "secrets.TOKEN: file:/t version v1 → file:/t version v2",
    ]
    told = found.sentences()
    assert "package flask: 3.0.0 → 3.1.0" in told
    assert "package new added: 1" in told
    assert "package six removed (was 1.0)" in told
    assert "changed: app/run" in told
    assert not [line for line in told if "deps/lib" in line], "the package says it"


def test_a_changed_dependency_file_without_a_changed_package_is_told() -> None:
    files = (*FILES[:3], FileEntry("deps/lib/flask.py", 0o644, 1, "sha256:5"))
    assert diff(VIEW, replace(VIEW, files=files)).sentences() == ["changed: deps/lib/flask.py"]


def test_a_package_in_two_versions_is_told_with_both() -> None:
    two = replace(RELEASE, packages=(*RELEASE.packages, Package("six", "0.9")))
    (change,) = diff(VIEW, replace(VIEW, release=two)).packages
    assert (change.key, change.before, change.after) == ("six", "1.0", "0.9, 1.0")


def test_a_long_list_is_cut_and_says_so() -> None:
    files = tuple(FileEntry(f"app/f{n:03}.py", 0o644, 1, "sha256:1") for n in range(100))
    found = diff(replace(VIEW, files=()), replace(VIEW, files=files))
    assert found.sentences()[-1] == "added: … and 88 more files"
    assert len(found.to_json()["files"]["added"]) == 100
