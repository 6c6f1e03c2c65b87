"""Processes as the kernel shows them: spawn, signal, identify, read. Every effect on a process passes here."""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rebake.core.clock import boot_id
from rebake.core.units import describe_size
from rebake.platforms.local.records import Identity, Settled

_STUB = Path(__file__).with_name("launch.py")
_PIDFD_GET_INFO = 0xC040FF0B  # _IOWR(0xFF, 11, 64 bytes), since Linux 6.13
_PIDFD_INFO_EXIT = 1 << 3  # since Linux 6.15
_GONE = (ProcessLookupError, FileNotFoundError)


@dataclass(frozen=True, slots=True)
class Stat:
    """Some fields of /proc/PID/stat. Source: proc_pid_stat(5)."""

    state: str
    parent: int
    session: int
    start_ticks: int
    image: tuple[str, ...]


def stat(pid: int) -> Stat | None:
    """None when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (*_GONE, PermissionError):
        return None
    fields = text.rpartition(")")[2].split()
    # fields[0] is field 3 (state); addresses of arguments and environment are fields 48 to 51.
    return Stat(fields[0], int(fields[1]), int(fields[3]), int(fields[19]), tuple(fields[45:49]))


def alive(identity: Identity) -> bool:
    """Whether this very process still runs: not another with its number, not a zombie, not one before a reboot."""
    if identity.boot != boot_id():
        return False
    found = stat(identity.pid)
    return found is not None and found.start_ticks == identity.start_ticks and found.state not in "ZX"


def spawn(spec: Path, log: Path, env: Mapping[str, str], *, health: bool = False) -> int:
    """Start the stub in a session of its own, detached from us but for being our child.

    Nothing of ours is inherited: no descriptor (Python's are close-on-exec), no signal mask, no terminal.

    Args:
        health: for the health command: what it prints goes nowhere, what it complains of into the log.
    Returns: its process number, which stays that of the released command.
    Raises: OSError.
    """
    python = getattr(sys, "_base_executable", None) or sys.executable
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    return os.posix_spawn(
        python,
        [python, "-I", "-S", str(_STUB), str(spec), *(["health"] if health else [])],
        dict(env),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, str(log), append, 0o600),
            (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0) if health else (os.POSIX_SPAWN_DUP2, 2, 1),
        ],
        setsid=True,
        setsigmask=[],
        setsigdef=[s for s in signal.valid_signals() if s not in (signal.SIGKILL, signal.SIGSTOP)],
    )


def identify(pid: int, port: int) -> Identity | None:
    found = stat(pid)
    return None if found is None else Identity(pid, found.start_ticks, boot_id(), port)


def open_pidfd(identity: Identity) -> int | None:
    """A descriptor that becomes readable when the process ends; None when it is gone.

    Source: pidfd_open(2).
    """
    try:
        fd = os.pidfd_open(identity.pid)
    except OSError:
        return None
    # Between our reading of the number and the opening, it may have been given to another process.
    found = stat(identity.pid)
    if identity.boot != boot_id() or found is None or found.start_ticks != identity.start_ticks:
        os.close(fd)
        return None
    return fd


def wait_status(identity: Identity, pidfd: int | None) -> int | None:
    """The wait status of a process that ended: from the kernel as its parent, or by its pidfd; None when unknowable.

    Source: waitpid(2); include/uapi/linux/pidfd.h, PIDFD_INFO_EXIT (readable once another parent has reaped it).
    """
    found = stat(identity.pid)
    ours = identity.boot == boot_id() and found is not None and found.start_ticks == identity.start_ticks
    if ours:  # never by number alone: after a restart of the machine it may be another child of this program
        with suppress(ChildProcessError):
            pid, status = os.waitpid(identity.pid, os.WNOHANG)
            if pid == identity.pid:
                return status
    if pidfd is None:
        return None
    info = bytearray(struct.pack("=Q", _PIDFD_INFO_EXIT).ljust(64, b"\0"))
    with suppress(OSError):
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, info)
        (mask,) = struct.unpack_from("=Q", info)
        if mask & _PIDFD_INFO_EXIT:
            (code,) = struct.unpack_from("=i", info, 60)
            return int(code)
    return None


def describe_exit(status: int | None, memory_limit: int | None = None) -> str:
    """A wait status as a person reads it.

    Args:
        memory_limit: bytes, when the kernel ended something of the instance for passing it.
    >>> describe_exit(256), describe_exit(9, 256 << 20)
    ('exit 1', 'killed by SIGKILL (memory limit 256MiB)')
    """
    reason = f" (memory limit {describe_size(memory_limit)})" if memory_limit else ""
    if status is None:
        return f"exited{reason or ', code unknown: it was adopted after a restart of the agent'}"
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = f"signal {number}"
        return f"killed by {name}{reason}"
    return f"exit {os.waitstatus_to_exitcode(status)}{reason}"


def signal_group(identity: Identity, number: signal.Signals) -> None:
    """Signal the whole process group, if its leader is still the process we mean."""
    if alive(identity):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(identity.pid, number)


def kill(identity: Identity, number: signal.Signals = signal.SIGKILL) -> None:
    """Signal one process by identity: never another that got its number."""
    fd = open_pidfd(identity)
    if fd is None:
        return
    try:
        with suppress(ProcessLookupError, PermissionError):
            signal.pidfd_send_signal(fd, number)
    finally:
        os.close(fd)


def _words(pid: int, name: str) -> tuple[str, ...] | None:
    try:
        data = Path(f"/proc/{pid}/{name}").read_bytes()
    except (*_GONE, PermissionError):
        return None
    return (
        tuple(word.decode("utf-8", "backslashreplace") for word in data.removesuffix(b"\0").split(b"\0"))
        if data
        else ()
    )


def command_line(pid: int) -> tuple[str, ...]:
    return _words(pid, "cmdline") or ()


def environ(pid: int) -> dict[str, str] | None:
    """The environment a process was executed with; None when it is gone or not ours to read."""
    words = _words(pid, "environ")
    if words is None:
        return None
    return dict(word.split("=", 1) for word in words if "=" in word)


def hash_value(value: str) -> str:
    return hashlib.sha256(os.fsencode(value)).hexdigest()[:16]


def look(pid: int) -> Settled | None:
    """The process as it is now, in the form drift is compared in; None when it is gone or not ours to read."""
    found, env = stat(pid), environ(pid)
    if found is None or env is None:
        return None
    try:
        executable = str(Path(f"/proc/{pid}/exe").readlink()).removesuffix(" (deleted)")
    except OSError:
        executable = ""
    hashes = {name: hash_value(value) for name, value in sorted(env.items())}
    return Settled((executable, *found.image), command_line(pid), hashes)


def pids() -> Iterator[int]:
    with os.scandir("/proc") as found:
        yield from [int(entry.name) for entry in found if entry.name.isdigit()]


@dataclass(frozen=True, slots=True)
class Marked:
    """A process that carries our mark in its environment."""

    identity: Identity
    session: int
    parent: int
    env: Mapping[str, str]


_SUBREAPER_SAFE = frozenset({0, 1})


def marked(data_root: Path) -> Iterable[Marked]:
    """Every live process whose environment says that it is an instance of this home (by `REBAKE_DATA`)."""
    prefix = os.fsencode(f"REBAKE_DATA={data_root}/")
    for pid in pids():
        try:
            raw = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        if prefix not in raw or b"REBAKE_INSTANCE=" not in raw:
            continue
        found, env, identity = stat(pid), environ(pid), identify(pid, 0)
        if found is None or env is None or identity is None or found.state in "ZX":
            continue
        yield Marked(identity, found.session, found.parent, env)


def is_descendant(pid: int, ancestors: frozenset[int]) -> bool:
    """Whether one of `ancestors` is a parent, or a parent's parent, of `pid`."""
    seen: set[int] = set()
    while pid not in _SUBREAPER_SAFE and pid not in seen:
        seen.add(pid)
        found = stat(pid)
        if found is None:
            return False
        pid = found.parent
        if pid in ancestors:
            return True
    return False
