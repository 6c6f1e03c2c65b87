"""`make bench`: every measured figure in one run. `--quick` takes fewer rounds; names choose some of the rooms."""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

from benchmarks.table import show

ROOMS = ("bake", "push", "edge", "deploy", "docker", "kubernetes", "live", "simulation", "ledger", "scale", "judge")


def main(argv: list[str]) -> int:
    quick, as_json = "--quick" in argv, "--json" in argv
    chosen = [word for word in argv if not word.startswith("-")] or list(ROOMS)
    rows: list[dict[str, Any]] = []
    code = 0
    for name in chosen:
        print(f"── {name}", file=sys.stderr if as_json else sys.stdout, flush=True)
        found = importlib.import_module(f"benchmarks.{name}").run(quick)
        rows += found
        code |= 0 if as_json else show(found)
    if as_json:
        print(json.dumps(rows, indent=1))
        code = int(any(row.get("ok") is False for row in rows))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
