"""Never patch. Rebake: sealed releases, raised beside what runs, judged on real traffic, kept or taken back."""

import sys

__version__ = "0.1.0"

# httpx loads a program of its own wherever it finds what that is drawn with (click, rich): two thirds of its 0.3 s, for
# something that nobody calls here. It goes on without where that cannot be loaded.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
