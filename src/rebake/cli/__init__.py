"""The command line. Importing this costs nothing; every verb loads what it needs when it is typed."""

from __future__ import annotations


def main() -> int:
    """Run the command line of this process. Returns the exit code of DESIGN section 5."""
    import sys

    from rebake.cli.root import run

    return run(sys.argv[1:])
