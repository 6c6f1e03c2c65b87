"""What cannot be baked, told by name and all at once. Pure."""

from __future__ import annotations

from rebake.bake.ports import Seen
from rebake.errors import BakeError

_SHOWN = 50

REFUSALS: dict[str, tuple[str, str, str]] = {
    "likely-secret": (
        "looks like a secret",
        "a release must hold no secret",
        "add the file to `exclude` and give its values as secrets of the environment (if it is none: `!PATH` there)",
    ),
    "link-leaves-tree": (
        "is a symbolic link that leaves the source",
        "a release holds only what is inside its source",
        "replace the link by the file it points to, or add it to `exclude`",
    ),
    "special-file": (
        "is a device, pipe or socket",
        "only files, folders and symbolic links can be baked",
        "remove it, or add it to `exclude`",
    ),
    "name-not-utf8": (
        "has a name (or, as a link, a target) that is not UTF-8",
        "names must be the same on every machine",
        "rename it, or add its folder to `exclude`",
    ),
    "path-too-long": (
        "is too long a path",
        "a path of more than 3,000 bytes cannot be unpacked everywhere",
        "shorten its names, or add the outermost of its folders to `exclude`",
    ),
    "source-unreadable": (
        "cannot be read",
        "every file that goes in must be readable",
        "make it readable for this user, or add it to `exclude`",
    ),
    "file-changed-while-read": (
        "changed while it was read",
        "the source must hold still while it is baked",
        "stop what writes there (a build, a log, an editor) or add it to `exclude`, and bake again",
    ),
}
"""Code to: what is wrong with each, why it matters, what to do. The order is that of importance."""


def refuse(seen: Seen, where: str) -> None:
    """Raises: BakeError with the code of the gravest kind, and every offender in its evidence."""
    if not seen.offenders:
        return
    kinds = [code for code in REFUSALS if code in seen.offenders]
    lines = [f"{path}: {REFUSALS[code][0]}" for code in kinds for path in sorted(set(seen.offenders[code]))]
    first = sorted(set(seen.offenders[kinds[0]]))[0]
    others = len(lines) - 1
    more = f", and {others} more cannot be baked" if others else ""
    raise BakeError(
        kinds[0],
        f"{first} {REFUSALS[kinds[0]][0]}{more}: {REFUSALS[kinds[0]][1]}",
        where=where,
        remedy="; ".join(REFUSALS[code][2] for code in kinds),
        evidence=lines[:_SHOWN] + ([f"… and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []),
    )
