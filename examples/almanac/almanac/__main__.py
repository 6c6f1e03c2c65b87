"""`python -m almanac`: writes one line about this moment into the almanac in $REBAKE_DATA (or in this folder)."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from pathlib import Path

SAYS = os.environ.get("SAYS", "all is well")


def main() -> int:
    book = Path(os.environ.get("REBAKE_DATA", "."), "almanac.txt")
    by = os.environ.get("REBAKE_INSTANCE", "hand")
    with book.open("a", encoding="utf-8") as file:
        file.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {by} {SAYS}\n")
    print(f"wrote into {book}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
