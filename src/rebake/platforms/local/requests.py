"""From an instance as wished to what the starting stub is told: pure data, compared whole in tests.

Rules:
- The environment is clean: only what is named here, the release's own `env`, the environment's settings and secrets.
- A person's `env` wins over the binding of the runtime, never over who the instance is (`PORT`, `HOST`, `REBAKE_*`).
- `$NAME` and `${NAME}` are expanded in the command for `PORT`, `HOST`, `TMPDIR`, `REBAKE_DATA` and the names under
  `env`; `$$` is one dollar; any other name stays as it is. Secrets are never expanded: command lines are public.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rebake.platforms.command import expand
from rebake.platforms.local.landlock import LandlockRules, write_rules
from rebake.platforms.local.layout import ProcessFolder
from rebake.platforms.model import HOST, InstanceSpec

_NOFILE = 65_536


@dataclass(frozen=True, slots=True)
class Binding:
    """How a runtime of this machine is bound to the unpacked release.

    Attributes:
        app: root of the baked files; the working directory.
        path: folders put before the machine's own on PATH.
        env: names that point the runtime at the release.
    """

    app: str
    path: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """What the stub does, in this order: joins, limits, restricts, records itself, becomes the command.

    Attributes:
        argv: the released command, expanded. `argv[0]` is looked up on the PATH of `env`.
        env: the whole environment without the secrets (they reach the stub by its own environment).
        secret_names: names in the environment whose values are written nowhere.
        rlimits: name of the limit without RLIMIT_, to its soft value; the hard value is left, or lowered with CORE.
        join: `cgroup.procs` files to enter.
        health: the health command, expanded like `argv`; the stub becomes it instead when it is started to ask.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    secret_names: tuple[str, ...]
    cwd: str
    pid_file: str
    port: int
    rlimits: Mapping[str, int]
    join: tuple[str, ...] = ()
    landlock: LandlockRules | None = None
    health: tuple[str, ...] = ()


def environment(spec: InstanceSpec, binding: Binding, folder: ProcessFolder, data: Path, port: int) -> dict[str, str]:
    """The environment of one instance, without its secrets."""
    own = {
        "PORT": str(port),
        "HOST": HOST,
        "REBAKE_INSTANCE": spec.id,
        "REBAKE_SERVICE": spec.service,
        "REBAKE_ENVIRONMENT": spec.environment,
        "REBAKE_REVISION": spec.revision,
        "REBAKE_DATA": str(data),
    }
    machine = {
        "PATH": ":".join((*binding.path, "/usr/local/bin", "/usr/bin", "/bin")),
        "HOME": str(folder.scratch),
        "TMPDIR": str(folder.scratch),
        "LANG": "C.UTF-8",
    }
    return {**machine, **binding.env, **spec.run.env, **own}


def launch_request(
    spec: InstanceSpec,
    binding: Binding,
    folder: ProcessFolder,
    data: Path,
    port: int,
    *,
    landlock_abi: int,
    writable: Sequence[Path] = (),
    join: Sequence[str] = (),
    rlimit_memory: int | None = None,
) -> LaunchRequest:
    """Everything the stub is told.

    Args:
        landlock_abi: of the kernel, 0 for none.
        writable: further folders the environment's settings open for writing.
        join: control groups to enter.
        rlimit_memory: bytes, where no control group can hold the memory limit.
    """
    env = environment(spec, binding, folder, data, port)
    names = {name: env[name] for name in ("PORT", "HOST", "TMPDIR", "REBAKE_DATA", *spec.run.env)}
    folders = (str(folder.scratch), str(data), *map(str, writable), "/dev/shm")
    return LaunchRequest(
        argv=expand(spec.run.command, names),
        env=env,
        secret_names=tuple(sorted(spec.secrets)),
        cwd=binding.app,
        pid_file=str(folder.pid),
        port=port,
        rlimits={"CORE": 0, "NOFILE": _NOFILE} | ({"DATA": rlimit_memory} if rlimit_memory else {}),
        join=tuple(join),
        landlock=write_rules(landlock_abi, folders, (str(folder.log),)),
        health=expand(spec.run.health.command, names),
    )
