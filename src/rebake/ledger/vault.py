"""Values of secrets in the ledger's own database, sealed with a key that is not in it: for servers that share one.

What `core.secrets.SecretVault` is for one home. The database, and a copy of it, shows neither a value nor whether two
are equal to a guess: versions are a keyed hash, and the boxes are AES-256-GCM.
"""

from __future__ import annotations

import base64
import hmac
import re
import secrets
from collections.abc import Set
from pathlib import Path

from rebake.core.clock import Clock
from rebake.core.secrets import GRACE_SECONDS
from rebake.errors import Permanent, UsageError
from rebake.ledger.ports import Ledger, Put

VARIABLE = "REBAKE_SECRET_KEY_FILE"
KIND = "secret"
_LEAST_KEY = 32
_NONCE_BYTES = 12  # NIST SP 800-38D, 8.2.2: a random nonce of 96 bits, for at most 2^32 boxes of one key
_VERSION = re.compile(r"hmac:[0-9a-f]{64}")


def key_from(path: Path) -> bytes:
    """The key in a file, text of at least 32 characters. Raises: UsageError `secret-key-file`."""
    try:
        text = path.read_bytes().strip()
    except OSError as error:
        raise _wrong_key(path, f"the key cannot be read: {error.strerror}") from error
    if len(text) < _LEAST_KEY:
        raise _wrong_key(path, f"expected a key of at least {_LEAST_KEY} characters, found {len(text)}")
    return text


def _wrong_key(path: Path, problem: str) -> UsageError:
    return UsageError(
        "secret-key-file",
        problem,
        where=f"{VARIABLE}={path}",
        remedy=f"openssl rand -hex 32 > {path}; every server of one database needs the same",
    )


class LedgerVault:
    """The secrets of one ledger. Safe from several threads and processes.

    Args:
        key: from `key_from`.
    """

    def __init__(self, ledger: Ledger, key: bytes, clock: Clock) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # only servers need it

        self._ledger, self._clock = ledger, clock
        self._naming = hmac.digest(key, b"rebake secret versions", "sha256")
        self._boxes = AESGCM(hmac.digest(key, b"rebake secret boxes", "sha256"))

    def remember(self, value: str) -> str:
        """Store a value and return its version, `hmac:` and 64 hexadecimal digits. Equal values give equal versions.

        Raises: what the ledger raises; nothing is then stored.
        """
        data = value.encode("utf-8", "surrogateescape")
        version = f"hmac:{hmac.digest(self._naming, data, 'sha256').hex()}"
        nonce, now = secrets.token_bytes(_NONCE_BYTES), self._clock.now()
        box = base64.b64encode(nonce + self._boxes.encrypt(nonce, data, version.encode())).decode()
        self._ledger.commit([], [Put(KIND, version, {"box": box, "at": now})], at=now)
        return version

    def secret(self, version: str) -> str:
        """The value of a version.

        Raises: Permanent `secret-unknown` when it is not (or no longer) kept here, `secret-damaged` when it was changed
            or sealed with another key.
        """
        from cryptography.exceptions import InvalidTag

        doc = self._ledger.get(KIND, version) if _VERSION.fullmatch(version) else None
        if doc is None:
            raise Permanent(
                "secret-unknown",
                f"no secret of version {version} is kept in this database",
                where="ledger",
                remedy="deploy again: that reads the secret anew",
            )
        try:
            box = base64.b64decode(str(doc["box"]), validate=True)
            data = self._boxes.decrypt(box[:_NONCE_BYTES], box[_NONCE_BYTES:], version.encode())
        except (KeyError, ValueError, InvalidTag) as error:
            raise Permanent(
                "secret-damaged",
                f"the value of {version} cannot be opened: it was changed, or sealed with another key",
                where=VARIABLE,
                remedy="give the key that this database's servers had before; or deploy again: that seals it anew",
            ) from error
        return data.decode("utf-8", "surrogateescape")

    def keep(self, versions: Set[str], *, grace_seconds: float = GRACE_SECONDS) -> int:
        """Remove the values of all other versions that were not remembered within the last `grace_seconds`.

        Returns: how many were removed.
        """
        now = self._clock.now()
        old = [
            key
            for key, doc in self._ledger.list(KIND)
            if key not in versions and float(doc.get("at", 0.0)) <= now - grace_seconds
        ]
        if old:
            self._ledger.commit([], [Put(KIND, key, None) for key in old], at=now)
        return len(old)
