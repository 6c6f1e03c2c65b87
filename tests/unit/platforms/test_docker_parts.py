"""What is asked of the engine, and what its answers come to: pure, compared whole."""

from __future__ import annotations

import io
import json
import socket
import tarfile
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rebake.errors import Permanent, Transient, UsageError
from rebake.platforms.docker import client, drift
from rebake.platforms.docker.archive import Blob, Image, archive, held_layers, image_of
from rebake.platforms.docker.ending import describe_end
from rebake.platforms.docker.engines import Engine
from rebake.platforms.docker.requests import (
    REQUEST_LABEL,
    ImageFacts,
    Place,
    container_request,
    secrets_script,
    user_of,
)
from rebake.platforms.docker.settings import DockerSettings, settings_from, socket_of
from rebake.platforms.model import Drift, InstanceSpec
from rebake.release.manifest import Resources, RunContract
from rebake.testing.images import ImageReleases

IMAGE = ImageFacts("sha256:" + "a" * 64)
RUN = RunContract(
    ("serve", "--port=$PORT", "$GREETING"), 8000, env={"GREETING": "hello"}, resources=Resources(64 << 20, 500)
)
SPEC = InstanceSpec("shop-1", "shop", "production", "f1", "sha256:rev", "sha256:rel", RUN)
PLACE = Place("tag", 20_001, "/home/data", "65532:65532", "rebake-tag")


def request(**changes: Any) -> dict[str, Any]:
    settings = DockerSettings(writable=("/var/cache",))
    return container_request(SPEC, IMAGE, settings, replace(PLACE, **changes))


def test_the_whole_request() -> None:
    made = request()
    scratch = "rw,nosuid,nodev,exec,mode=1777,size=268435456,uid=65532,gid=65532"
    assert made["Labels"].pop(REQUEST_LABEL).startswith("sha256:")
    assert made == {
        "Image": IMAGE.id,
        "User": "65532:65532",
        "Env": [
            "GREETING=hello",
            "HOME=/tmp",
            "HOST=0.0.0.0",
            "PORT=8000",
            "REBAKE_DATA=/rebake/data",
            "REBAKE_ENVIRONMENT=production",
            "REBAKE_INSTANCE=shop-1",
            "REBAKE_REVISION=sha256:rev",
            "REBAKE_SERVICE=shop",
            "TMPDIR=/tmp",
        ],
        "ExposedPorts": {"8000/tcp": {}},
        "StopSignal": "SIGTERM",
        "Entrypoint": ["serve", "--port=8000", "hello"],
        "Labels": {
            "dev.rebake.home": "tag",
            "dev.rebake.instance": "shop-1",
            "dev.rebake.instance-service": "shop",
            "dev.rebake.instance-environment": "production",
            "dev.rebake.fleet": "f1",
            "dev.rebake.revision": "sha256:rev",
            "dev.rebake.instance-release": "sha256:rel",
        },
        "HostConfig": {
            "ReadonlyRootfs": True,
            "Privileged": False,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "PidsLimit": 512,
            "Tmpfs": {"/tmp": scratch, "/var/cache": scratch},
            "Mounts": [{"Type": "bind", "Source": "/home/data", "Target": "/rebake/data", "ReadOnly": False}],
            "NetworkMode": "rebake-tag",
            "PortBindings": {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "20001"}]},
            "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "2"}},
            "Init": True,
            "Memory": 64 << 20,
            "MemorySwap": 64 << 20,
            "NanoCpus": 500_000_000,
        },
    }


def test_a_folder_in_memory_is_whose_the_instance_runs_as() -> None:
    def owner(user: str, podman: bool = False) -> str:
        return str(request(podman=podman, user=user)["HostConfig"]["Tmpfs"]["/tmp"]).partition("size=268435456")[2]

    assert [owner(user) for user in ("1000:2000", "1000", "app")] == [",uid=1000,gid=2000", ",uid=1000", ""]
    assert owner("app", podman=True) == ",U"


def test_secrets_come_by_a_mounted_file_that_the_shell_reads_before_it_becomes_the_command() -> None:
    made = request(secrets="/home/containers/shop-1/secrets")
    assert made["Entrypoint"][:2] == ["/bin/sh", "-c"]
    assert made["Entrypoint"][-3:] == ["serve", "--port=8000", "hello"]
    assert made["HostConfig"]["Mounts"][1]["ReadOnly"] is True
    assert secrets_script({"TOKEN": "it's"}) == "export TOKEN='it'\"'\"'s'\n"


def test_nobody_runs_as_root_unasked() -> None:
    plain = DockerSettings()
    assert user_of(plain, ImageFacts("i", "root:root"), 0) == "65532:65532"
    assert user_of(plain, ImageFacts("i", "0"), 1000) == "1000:1000"
    assert user_of(plain, ImageFacts("i", "web:web"), 0) == "web:web"
    assert user_of(DockerSettings(user="0:0"), ImageFacts("i", "web"), 0) == "0:0"


def test_the_socket_is_the_files_else_that_of_docker_host_else_the_first_that_is_there() -> None:
    assert socket_of(DockerSettings(socket="/a"), {"DOCKER_HOST": "unix:///b"}, lambda _: True) == "/a"
    assert socket_of(DockerSettings(), {"DOCKER_HOST": "unix:///b"}, lambda _: True) == "/b"
    rootless = {"XDG_RUNTIME_DIR": "/run/user/7"}
    found = socket_of(DockerSettings(), rootless, lambda path: "podman" in str(path))
    assert found == "/run/user/7/podman/podman.sock"
    with pytest.raises(Permanent, match="unix://") as refusal:
        socket_of(DockerSettings(), {"DOCKER_HOST": "tcp://10.0.0.1:2375"}, lambda _: True)
    assert refusal.value.code == "docker-elsewhere"


def test_settings_of_a_plan_have_their_defaults() -> None:
    assert settings_from({}) == DockerSettings()
    assert settings_from({"pids": 9, "writable": ["/x"]}) == DockerSettings(pids=9, writable=("/x",))


def inspected(**host: Any) -> dict[str, Any]:
    """What an engine says of a container that is as it was asked for."""
    made = request()
    config = {**made["HostConfig"], "SecurityOpt": ["no-new-privileges"], "CapAdd": None, **host}
    return {
        "Image": made["Image"],
        "Config": {
            "Entrypoint": made["Entrypoint"],
            "Cmd": None,
            "User": made["User"],
            "Env": [*made["Env"], "PATH=/bin"],
        },
        "HostConfig": config,
        "State": {"Running": True},
        "NetworkSettings": {"Networks": {"rebake-tag": {}}},
        "Mounts": [{"Type": "bind", "Destination": "/rebake/data", "RW": True}],
    }


def differences(found: dict[str, Any]) -> list[tuple[str, str]]:
    return [(d.kind, d.where.removeprefix("shop-1: ")) for d in drift.container_drift("shop-1", request(), found)]


def test_a_container_as_it_was_asked_for_has_no_drift() -> None:
    assert differences(inspected()) == []
    assert differences(inspected(CapDrop=["all"], SecurityOpt=["no-new-privileges:true"], CapAdd=[])) == []


TAMPERED = {
    "docker update --memory": (inspected(Memory=1 << 30), ("limits", "Memory")),
    "more capabilities": (inspected(CapAdd=["SYS_ADMIN"]), ("configuration", "CapAdd")),
    "a restart policy": (inspected(RestartPolicy={"Name": "always"}), ("configuration", "RestartPolicy")),
    "another image": ({**inspected(), "Image": "sha256:b"}, ("image", "shop-1")),
    "another network": (
        {**inspected(), "NetworkSettings": {"Networks": {"rebake-tag": {}, "db": {}}}},
        ("network", "shop-1"),
    ),
    "another mount": (
        {**inspected(), "Mounts": [*inspected()["Mounts"], {"Type": "bind", "Destination": "/x", "RW": True}]},
        ("mounts", "/x"),
    ),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_what_was_changed_is_named(case: str) -> None:
    found, expected = TAMPERED[case]
    assert differences(found) == [expected]


def test_a_changed_variable_is_named_and_a_secret_is_not_shown() -> None:
    found = inspected()
    found["Config"]["Env"] = [row.replace("hello", "evil") for row in found["Config"]["Env"]]
    (one,) = drift.container_drift("shop-1", request(), found)
    assert (one.kind, one.where, one.found) == ("environment", "shop-1: GREETING", "another value")


def test_files_of_the_image_count_and_the_engines_own_mount_points_do_not() -> None:
    changes = [
        {"Path": "/rebake", "Kind": 1},
        {"Path": "/rebake/data", "Kind": 1},
        {"Path": "/tmp", "Kind": 1},
        {"Path": "/sbin", "Kind": 0},
        {"Path": "/sbin/docker-init", "Kind": 1},
        {"Path": "/app", "Kind": 0},
        {"Path": "/app/server.py", "Kind": 0},
        {"Path": "/etc/cron", "Kind": 1},
        {"Path": "/bin/sh", "Kind": 2},
    ]
    found = drift.changed_files("i", changes, drift.mount_points(inspected()))
    assert found == [
        Drift("file-changed", "i: /app/server.py"),
        Drift("file-removed", "i: /bin/sh"),
        Drift("file-added", "i: /etc/cron"),
    ]


_DROPPED = "AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL NET_BIND_SERVICE SETFCAP SETGID SETPCAP SETUID SYS_CHROOT"
PODMANS = [f"CAP_{name}" for name in _DROPPED.split()]


def test_podman_tells_one_by_one_what_it_dropped_and_notes_who_the_container_is() -> None:
    def by_podman(dropped: list[str]) -> dict[str, Any]:
        found = inspected(CapDrop=dropped)
        found["Config"]["Env"].append("container=podman")
        return found

    assert differences(by_podman(PODMANS)) == []
    assert differences(by_podman(PODMANS[:-1])) == [("configuration", "CapDrop")]
    assert differences(inspected(CapDrop=PODMANS)) == [("configuration", "CapDrop")], "Docker would say ALL"
    changes = [{"Path": "/etc", "Kind": 0}, {"Path": "/etc/passwd", "Kind": 1}, {"Path": "/etc/group", "Kind": 0}]
    assert drift.changed_files("i", changes, drift.mount_points(by_podman(PODMANS))) == []
    assert len(drift.changed_files("i", changes, drift.mount_points(inspected()))) == 2


ENDS = {
    "exit 3": {"Status": "exited", "ExitCode": 3},
    "killed by SIGKILL": {"Status": "exited", "ExitCode": 137},
    "killed by SIGKILL (memory limit 64MiB)": {"Status": "exited", "ExitCode": 137, "OOMKilled": True},
    "could not run: no such thing": {"Status": "exited", "ExitCode": 128, "Error": "no such thing"},
}


@pytest.mark.parametrize("said", ENDS)
def test_how_a_container_ended(said: str) -> None:
    assert describe_end({"State": ENDS[said]}, 64 << 20) == said


def test_a_container_that_runs_has_not_ended_and_one_that_is_gone_was_removed() -> None:
    assert describe_end({"State": {"Status": "running"}}, None) is None
    assert describe_end(None, None) == "its container was removed by somebody else"


REFUSALS = {
    "write /x: no space left on device": (500, Permanent, "docker-disk-full"),
    'exec: "serve": executable file not found in $PATH': (400, Permanent, "command-not-found"),
    "client version 1.41 is too old": (400, Permanent, "docker-too-old"),
    "network db not found": (404, Permanent, "docker-refused"),
    "something broke": (500, Transient, "docker-failed"),
}


@pytest.mark.parametrize("said", REFUSALS)
def test_what_the_engine_refuses_is_told_by_who_must_act(said: str) -> None:
    status, family, code = REFUSALS[said]
    error = client._refusal("/s", said, status)
    assert isinstance(error, family)
    assert isinstance(error, Permanent | Transient)
    assert (error.code, bool(error.remedy)) == (code, True)


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ('Conflict. The container name "/rebake-x" is already in use by container "0d"', 409),
        ('container create: the container name "rebake-x" is already in use by 0d. You have to remove that one', 500),
    ],
)
def test_a_name_that_is_taken_is_known_in_the_words_of_docker_and_of_podman(said: str, status: int) -> None:
    assert isinstance(client._refusal("/s", said, status), client.NameTaken)


def test_no_engine_and_no_right_to_use_one_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(Transient) as absent:
        client.DockerClient(str(tmp_path / "none")).facts()
    assert absent.value.code == "docker-unreachable"
    error = client.translate(ConnectionError("aborted", PermissionError(13, "Permission denied")), "/s")
    assert isinstance(error, Permanent)
    assert error.code == "docker-permission"


def test_the_archive_holds_the_image_as_it_was_sealed_and_leaves_out_what_the_engine_has(tmp_path: Path) -> None:
    releases = ImageReleases(tmp_path)
    release = releases.add(RUN, {"app/x": "1"})
    image = image_of(releases.store, release)
    assert image.facts.id == releases.store.read_json(release.digest)["config"]["digest"]
    for skip in (0, 1):
        data = b"".join(archive(releases.store, image, skip))
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            names = tar.getnames()
            (index,) = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
        assert index["RepoTags"] == [image.tag]
        assert [name for name in names if name.endswith(".tar")] == index["Layers"][skip:]


def test_layers_are_held_as_far_as_another_image_has_the_same_ones_below() -> None:
    image = Image(IMAGE, (Blob("d1", "a", 1), Blob("d2", "b", 1)), "t")
    assert held_layers(image, []) == 0
    assert held_layers(image, [["x"], ["a"], ["b", "a"]]) == 1
    assert held_layers(image, [["a", "b", "c"]]) == 2


def test_a_release_without_a_base_is_refused_on_docker_and_one_with_an_image_on_local(tmp_path: Path) -> None:
    from rebake.app.platforms import refuse_base

    with_image = ImageReleases(tmp_path).add(RUN, {"app/x": "1"})
    refuse_base("docker", with_image)
    with pytest.raises(UsageError) as host:
        refuse_base("docker", replace(with_image, base="host", layers=()))
    with pytest.raises(UsageError) as image:
        refuse_base("local", with_image)
    assert (host.value.code, image.value.code) == ("base-host", "base-not-host")


def test_instances_that_start_together_make_one_network() -> None:
    made: list[str] = []
    waiting = threading.Barrier(2, timeout=0.5)

    class Slow(client.DockerClient):
        def make_network(self, wanted: Mapping[str, Any]) -> None:
            with suppress(threading.BrokenBarrierError):
                waiting.wait()  # a second caller, if it is let in
            made.append(str(wanted["Name"]))

    engine = Engine(Slow("/nowhere/docker.sock"), "tag", 0.0, lambda _: None, lambda: None)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: engine.network(), range(2)))
    engine.close()
    assert made == ["rebake-tag"]


def test_an_engine_answers_where_somebody_listens(tmp_path: Path) -> None:
    place = tmp_path / "docker.sock"
    assert not client.answers(str(place))
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(str(place))
        assert not client.answers(str(place))
        engine.listen()
        assert client.answers(str(place))
