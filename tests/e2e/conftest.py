from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.site import Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A service nobody deployed yet. At the end nothing of it may be left running."""
    built = Site(tmp_path)
    yield built
    left = built.clear()
    assert not left, f"left running: {left}"
