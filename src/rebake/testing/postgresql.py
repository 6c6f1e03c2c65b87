"""A real PostgreSQL server for tests and benchmarks, started and ended by them.

It listens on a Unix socket in a folder of its own and on no port, never waits for the disk, and ends with the process
that started it, however that ends. Binaries are looked for on PATH and where Debian and Fedora put them.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

INSTALL = (
    "PostgreSQL's server is not installed (Debian: apt-get install postgresql; Fedora: dnf install postgresql-server)"
)
START_SECONDS = 60.0

_PLACES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin")
_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1  # Source: prctl(2)
_SETTINGS: Mapping[str, str] = {
    "listen_addresses": "",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "60",
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",
    "autovacuum_naptime": "10s",
}
_ACCESS = """\
local all owner trust
local all all scram-sha-256
"""


class NotInstalled(Exception):
    """There is no PostgreSQL on this machine; the sentence says what to install."""

    def __init__(self) -> None:
        super().__init__(INSTALL)


def binary(name: str) -> Path:
    """Where a program of PostgreSQL is, the newest version first. Raises: NotInstalled."""
    found = shutil.which(name)
    if found is not None:
        return Path(found)
    here = [folder / name for pattern in _PLACES for folder in Path("/").glob(pattern[1:]) if (folder / name).exists()]
    if not here:
        raise NotInstalled
    return max(here, key=lambda path: [int(number) for number in re.findall(r"\d+", str(path))])


class PostgresqlServer:
    """One server with a superuser `owner`, who needs no password; every other role needs one.

    Used as a context: what it wrote is gone afterwards. PostgreSQL refuses to run as root: then it runs as `nobody`.
    """

    def __init__(self) -> None:
        """Make the cluster and start it. Raises: NotInstalled; RuntimeError with what the server said."""
        self._postgres, initdb = binary("postgres"), binary("initdb")
        # Not below the tests' own folders: a socket's path is short, and another user must get there.
        self.folder = Path(tempfile.mkdtemp(prefix="rebake-pg-", dir="/tmp"))
        self._names = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._user = "nobody" if os.geteuid() == 0 else None
        try:
            if self._user is not None:
                account = pwd.getpwnam(self._user)
                os.chown(self.folder, account.pw_uid, account.pw_gid)
            self._make_cluster(initdb)
            self.start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> PostgresqlServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make_cluster(self, initdb: Path) -> None:
        command = [str(initdb), "-D", str(self.folder / "data"), "-U", "owner", "-E", "UTF8", "-N", "--auth=trust"]
        done = subprocess.run(
            [*command, *self._language()], capture_output=True, text=True, check=False, **self._as_user()
        )
        if done.returncode:
            raise RuntimeError(f"initdb: {done.stderr.strip() or done.stdout.strip()}")
        (self.folder / "data" / "pg_hba.conf").write_text(_ACCESS)

    def _language(self) -> list[str]:
        """A database that sorts as a language does, where that can be had: rebake must not depend on the order."""
        said = subprocess.run([str(self._postgres), "--version"], capture_output=True, text=True, check=True).stdout
        version = re.search(r"\d+", said)
        icu = version is not None and int(version[0]) >= 15
        return ["--locale=C", "--locale-provider=icu", "--icu-locale=en"] if icu else ["--no-locale"]

    def _as_user(self) -> dict[str, Any]:
        common: dict[str, Any] = {"cwd": self.folder, "stdin": subprocess.DEVNULL}
        if self._user is None:
            return common
        return {**common, "user": self._user, "group": pwd.getpwnam(self._user).pw_gid, "extra_groups": []}

    def start(self) -> None:
        """Start it and return when it answers. Raises: RuntimeError with the end of its log."""
        settings = {**_SETTINGS, "unix_socket_directories": str(self.folder)}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._postgres), "-D", str(self.folder / "data"), *options],
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C at the terminal is for the tests, not for the server
                preexec_fn=_end_with_parent,  # noqa: PLW1509 (one call into the kernel, nothing that locks)
                **self._as_user(),
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"postgres does not start:\n{(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        import psycopg

        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(self._conninfo("postgres")).close()
            return True
        return False

    def _conninfo(self, database: str) -> str:
        return f"host={self.folder} user=owner dbname={database}"

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT breaks connections off and is polite to the disk, SIGQUIT is a crash."""
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def close(self) -> None:
        """End it and remove everything it wrote."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def sql(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement as the superuser, outside a transaction."""
        import psycopg

        with psycopg.connect(self._conninfo(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def url(self, database: str, user: str = "owner", password: str | None = None) -> str:
        """What `REBAKE_DATABASE` is set to."""
        secret = "" if password is None else f":{quote(password, safe='')}"
        return f"postgresql://{user}{secret}@/{database}?host={self.folder}"

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """The URL of an empty database of its own, dropped afterwards."""
        name = f"rebake_{os.getpid()}_{next(self._names)}"
        self.sql(f"CREATE DATABASE {name}")
        try:
            yield self.url(name)
        finally:
            self.sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def _end_with_parent() -> None:
    """Told to the kernel between fork and exec: when whoever started us dies, we are sent SIGINT."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
