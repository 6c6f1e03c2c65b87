"""The starting stub: becomes the released command after it has joined, limited, restricted and recorded itself.

Run as `python -I -S launch.py SPEC`, or with a second word to become the health command in the same place. It imports
nothing of rebake, so that it is cheap, and execs, so that no supervisor stays behind. It is spawned in a session of its
own, with its standard streams in place and the instance's whole environment, secrets included; SPEC (`spec.json`) tells
it the rest.

What fails is said on standard error, which is the instance's log, and ends it with 126 (cannot be prepared) or 127
(the command cannot be executed).
"""

# pathlib alone would cost a third of this program's start time:
# ruff: noqa: PTH108, PTH123

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any

_ADD_RULE, _CREATE_RULESET, _RESTRICT_SELF = 445, 444, 446
_RULE_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("rights", ctypes.c_uint64), ("parent", ctypes.c_int32))


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _restrict(rules: dict[str, Any] | None) -> None:
    """No new privileges; and where the kernel offers it, no writing outside the granted places."""
    libc = ctypes.CDLL(None, use_errno=True)
    _checked(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    if rules is None:
        return
    attr = _Ruleset(rules["handled"], 0, rules["scoped"])
    ruleset = _checked(libc.syscall(_CREATE_RULESET, ctypes.byref(attr), rules["size"], 0), "landlock_create_ruleset")
    for path, rights in rules["grants"]:
        try:
            parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        rule = _PathBeneath(rights, parent)
        _checked(libc.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.byref(rule), 0), f"landlock rule {path}")
        os.close(parent)
    _checked(libc.syscall(_RESTRICT_SELF, ruleset, 0), "landlock_restrict_self")
    os.close(ruleset)


def _limit(limits: dict[str, int]) -> None:
    for name, wanted in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        _, hard = resource.getrlimit(kind)
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (soft, hard if name == "NOFILE" else soft))


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()


def _record(path: str, port: int) -> bool:
    """Write who we are, once: False when another stub of this instance came first."""
    identity = {
        "pid": os.getpid(),
        "start_ticks": int(_read("/proc/self/stat").rpartition(")")[2].split()[19]),
        "boot": _read("/proc/sys/kernel/random/boot_id").strip(),
        "port": port,
    }
    temporary = f"{path}.{os.getpid()}"
    with open(temporary, "w") as file:
        json.dump(identity, file)
    try:
        os.link(temporary, path)  # link, not rename: it fails where the file exists
    except FileExistsError:
        return False
    finally:
        os.unlink(temporary)
    return True


def main(spec: str, *, health: bool = False) -> int:
    """Become the command of `spec`, or its health command. Returns only when that failed."""
    try:
        request = json.loads(_read(spec))["launch"]
        os.closerange(3, 65_536)
        for group in request["join"]:
            with open(group, "w") as file:
                file.write("0")
        if not health and not _record(request["pid_file"], request["port"]):
            return 0
        os.umask(0o022)
        os.chdir(request["cwd"])
        _limit(request["rlimits"])
        _restrict(request["landlock"])
    except OSError as error:
        print(f"rebake: the instance cannot be prepared: {error}", file=sys.stderr, flush=True)
        return 126
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores both; the command starts with the defaults
        signal.signal(number, signal.SIG_DFL)
    try:
        argv = request["health"] if health else request["argv"]
        os.execvp(argv[0], argv)
    except OSError as error:
        print(f"rebake: cannot execute {argv[0]}: {error.strerror}", file=sys.stderr, flush=True)
        return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], health=len(sys.argv) > 2))
