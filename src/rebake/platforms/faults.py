"""What the disk says, translated into who must act and what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rebake.errors import Permanent, PlatformError, Transient

_FULL = {errno.ENOSPC, errno.EDQUOT}
_CLOSED = {errno.EROFS, errno.EACCES, errno.EPERM}


def translate(error: OSError, where: Path) -> PlatformError:
    """The platform error for an OSError met while working on `where`."""
    place = str(error.filename or where)
    if error.errno in _FULL:
        return Permanent(
            "disk-full",
            f"no space left on the disk that holds {where}",
            where=place,
            remedy="free some space (`rebake gc` removes releases that nothing needs), then run the same command again",
        )
    if error.errno in _CLOSED:
        return Permanent(
            "home-not-writable",
            f"expected to be able to write below {where}, found: {error.strerror}",
            where=place,
            remedy="run as the user who owns this folder, or choose another one with REBAKE_HOME",
        )
    return Transient("local-io", f"the machine refused a file operation: {error}", where=place)


@contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Raise Permanent or Transient where the disk raises OSError."""
    try:
        yield
    except OSError as error:
        raise translate(error, where) from error
