"""Content addresses: `sha256:` and 64 lower-case hexadecimal digits, as OCI writes them."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from rebake.core.canonical import canonical

_SHAPE = re.compile(r"sha256:[0-9a-f]{64}")


def digest_bytes(data: bytes) -> str:
    """Source: OCI image-spec, descriptor.md, section Digests."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest_of(value: Any) -> str:
    """The digest of a JSON value's canonical bytes."""
    return digest_bytes(canonical(value))


def is_digest(text: str) -> bool:
    return _SHAPE.fullmatch(text) is not None


def short(digest: str) -> str:
    """The twelve digits people read: enough to name one of many, never used as an identity.

    >>> short("sha256:" + "ab" * 32)
    'abababababab'
    """
    return digest.removeprefix("sha256:")[:12]
