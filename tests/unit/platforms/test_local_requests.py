"""From an instance as wished to what the stub is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from rebake.core.home import Home
from rebake.errors import BrokenInvariant
from rebake.platforms.command import expand
from rebake.platforms.local import landlock
from rebake.platforms.local.landlock import LandlockRules
from rebake.platforms.local.layout import Layout
from rebake.platforms.local.requests import Binding, LaunchRequest, environment, launch_request
from rebake.platforms.model import InstanceSpec
from rebake.release.manifest import Resources, RunContract, SecretVersion

LAYOUT = Layout(Home(Path("/h")))
FOLDER = LAYOUT.instance("shop-1")
DATA = LAYOUT.data("shop", "production")
BINDING = Binding("/h/app", ("/h/venv/bin",), {"PYTHONPATH": "/h/app"})
RUN = RunContract(("serve", "--on=$HOST:$PORT", "$GREETING"), env={"GREETING": "hello you"})
SPEC = InstanceSpec("shop-1", "shop", "production", "f1", "sha256:rev", "sha256:rel", RUN)


@pytest.mark.parametrize(
    ("word", "expanded"),
    [
        ("$PORT", "80"),
        ("${PORT}0", "800"),
        ("$PORTAL", "$PORTAL"),
        ("$$PORT", "$PORT"),
        ("$$$PORT", "$80"),
        ("a$", "a$"),
        ("$1", "$1"),
        ("${PORT", "${PORT"),
        ("$SPACED", "two words"),
        ("$NESTED", "$PORT"),
    ],
)
def test_a_word_is_expanded_once_and_never_split(word: str, expanded: str) -> None:
    assert expand([word], {"PORT": "80", "SPACED": "two words", "NESTED": "$PORT"}) == (expanded,)


def test_the_whole_request() -> None:
    found = launch_request(
        SPEC, BINDING, FOLDER, DATA, 20001, landlock_abi=7, writable=[Path("/srv/up")], join=["/cg/cgroup.procs"]
    )
    in_file, in_folder = 0x4002, 0x7FF2
    assert found == LaunchRequest(
        argv=("serve", "--on=127.0.0.1:20001", "hello you"),
        env={
            "PATH": "/h/venv/bin:/usr/local/bin:/usr/bin:/bin",
            "HOME": "/h/instances/shop-1/scratch",
            "TMPDIR": "/h/instances/shop-1/scratch",
            "LANG": "C.UTF-8",
            "PYTHONPATH": "/h/app",
            "GREETING": "hello you",
            "PORT": "20001",
            "HOST": "127.0.0.1",
            "REBAKE_INSTANCE": "shop-1",
            "REBAKE_SERVICE": "shop",
            "REBAKE_ENVIRONMENT": "production",
            "REBAKE_REVISION": "sha256:rev",
            "REBAKE_DATA": "/h/data/shop/production",
        },
        secret_names=(),
        cwd="/h/app",
        pid_file="/h/instances/shop-1/pid.json",
        port=20001,
        rlimits={"CORE": 0, "NOFILE": 65536},
        join=("/cg/cgroup.procs",),
        landlock=LandlockRules(
            size=24,
            handled=in_folder,
            scoped=2,
            grants=(
                ("/h/instances/shop-1/scratch", in_folder),
                ("/h/data/shop/production", in_folder),
                ("/srv/up", in_folder),
                ("/dev/shm", in_folder),
                ("/h/instances/shop-1/log", in_file),
                *((device, in_file) for device in landlock.DEVICES),
                ("/dev/pts", in_file),
                ("/proc/self", in_file),
            ),
        ),
    )


def test_a_persons_environment_wins_over_the_binding_but_not_over_who_the_instance_is() -> None:
    run = RunContract(("x",), env={"PYTHONPATH": "lib", "PORT": "1", "REBAKE_INSTANCE": "forged"})
    env = environment(InstanceSpec("shop-1", "shop", "p", "f", "r", "d", run), BINDING, FOLDER, DATA, 20001)
    assert (env["PYTHONPATH"], env["PORT"], env["REBAKE_INSTANCE"]) == ("lib", "20001", "shop-1")


def test_a_secret_is_named_and_never_expanded() -> None:
    run = RunContract(("serve", "$TOKEN"))
    spec = InstanceSpec("shop-1", "shop", "p", "f", "r", "d", run, {"TOKEN": SecretVersion("file", "hmac:1")})
    found = launch_request(spec, BINDING, FOLDER, DATA, 20001, landlock_abi=0)
    assert (found.argv, found.secret_names) == (("serve", "$TOKEN"), ("TOKEN",))
    assert "TOKEN" not in found.env


def test_without_control_groups_memory_is_limited_by_the_process_itself() -> None:
    spec = InstanceSpec("i", "s", "e", "f", "r", "d", RunContract(("x",), resources=Resources(memory_bytes=1 << 26)))
    found = launch_request(spec, BINDING, FOLDER, DATA, 20001, landlock_abi=0, rlimit_memory=1 << 26)
    assert found.rlimits == {"CORE": 0, "NOFILE": 65536, "DATA": 1 << 26}


@pytest.mark.parametrize(
    ("abi", "size", "handled", "scoped"), [(1, 8, 0x1FF2, 0), (2, 8, 0x3FF2, 0), (3, 8, 0x7FF2, 0), (5, 16, 0x7FF2, 0)]
)
def test_an_older_kernel_is_asked_only_for_what_it_knows(abi: int, size: int, handled: int, scoped: int) -> None:
    rules = landlock.write_rules(abi, ("/a",), ())
    assert rules is not None
    assert (rules.size, rules.handled, rules.scoped) == (size, handled, scoped)


def test_a_kernel_without_landlock_gets_no_rules() -> None:
    assert landlock.write_rules(0, ("/a",), ()) is None


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "a\0b", "x" * 300])
def test_an_id_that_is_no_plain_name_is_refused(name: str) -> None:
    with pytest.raises(BrokenInvariant):
        LAYOUT.instance(name)
