"""Values of secrets by version: kept apart from every document, readable by the owner only.

A revision names a secret's version, never its value. The version is a keyed hash, so that a ledger that leaks does not
let anybody test guesses; the key never leaves this home.
"""

from __future__ import annotations

import fcntl
import hmac
import os
import re
import secrets
import time
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path

from rebake.core.atomic import write_atomic
from rebake.core.home import Home
from rebake.errors import Permanent

_VERSION = re.compile(r"hmac:([0-9a-f]{64})")
_VALUE_FILE = re.compile(r"[0-9a-f]{64}")
_KEY_BYTES = 32

GRACE_SECONDS = 3600.0
"""A value this young is kept although no revision names it yet: its deploy may be under way."""


class SecretVault:
    """The secrets of one home. Safe from several threads and processes."""

    def __init__(self, home: Home) -> None:
        self._folder = home.secrets

    def remember(self, value: str) -> str:
        """Store a value and return its version, `hmac:` and 64 hexadecimal digits. Equal values give equal versions.

        Raises: OSError as the disk says it; nothing is then stored.
        """
        data = _encode(value)
        with self._locked():
            name = self._name(data, self._key())
            path = self._folder / name
            if path.exists():
                os.utime(path)  # young again: see `keep`
            else:
                write_atomic(path, data, mode=0o600, durable=True)
        return f"hmac:{name}"

    def secret(self, version: str) -> str:
        """The value of a version.

        Raises: Permanent `secret-unknown` when it is not (or no longer) kept here, `secret-damaged` when the stored
            value was changed.
        """
        match = _VERSION.fullmatch(version)
        path = self._folder / match[1] if match else self._folder / "unknown"
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise Permanent(
                "secret-unknown",
                f"no secret of version {version} is kept here",
                where=str(self._folder),
                remedy="deploy again: that reads the secret anew",
            ) from error
        with self._locked():
            name = self._name(data, self._key())
        if not hmac.compare_digest(name, path.name):
            raise Permanent(
                "secret-damaged",
                f"expected the value of {version}, found another one",
                where=str(path),
                remedy="remove that file and deploy again: that reads the secret anew",
            )
        return data.decode("utf-8", "surrogateescape")

    def keep(self, versions: Set[str], *, grace_seconds: float = GRACE_SECONDS) -> int:
        """Remove the values of all other versions that were not remembered within the last `grace_seconds`.

        Returns: how many were removed.
        """
        if not self._folder.is_dir():
            return 0
        oldest = time.time() - grace_seconds
        removed = 0
        with self._locked():
            for path in self._folder.iterdir():
                # Names that begin with a dot: left half-written by a process that was killed.
                removable = _VALUE_FILE.fullmatch(path.name) or (path.name.startswith(".") and path.name != ".lock")
                if removable and f"hmac:{path.name}" not in versions and path.stat().st_mtime <= oldest:
                    path.unlink()
                    removed += 1
        return removed

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _key(self) -> bytes:
        path = self._folder / "key"
        if not path.exists():
            self._folder.chmod(0o700)
            write_atomic(path, secrets.token_bytes(_KEY_BYTES), mode=0o600, durable=True)
        return _whole_key(path)

    @staticmethod
    def _name(data: bytes, key: bytes) -> str:
        return hmac.new(key, data, "sha256").hexdigest()


def _whole_key(path: Path) -> bytes:
    key = path.read_bytes()
    if len(key) != _KEY_BYTES:
        raise Permanent(
            "secret-key-damaged",
            f"expected a key of {_KEY_BYTES} bytes, found {len(key)}",
            where=str(path),
            remedy=f"remove {path.parent} and deploy again: that reads every secret anew",
        )
    return key


def _encode(value: str) -> bytes:
    # An environment variable may hold bytes that are no UTF-8; they come back as they were.
    return value.encode("utf-8", "surrogateescape")
