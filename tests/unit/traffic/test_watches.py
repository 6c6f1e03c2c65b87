"""Envoy must never be told more than the kernel lets it watch: it would abort."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from rebake.errors import Permanent
from rebake.traffic.envoy import watches
from rebake.traffic.ports import EnvironmentRoute, FleetRoute

FLEETS = tuple(FleetRoute(f"f{n}", (), 10_000 if n == 0 else 0) for n in range(30))
ROUTE = EnvironmentRoute("shop", "production", "127.0.0.1:8080", FLEETS)


def limit(monkeypatch: pytest.MonkeyPatch, folder: Path, number: int) -> None:
    path = folder / "limit"
    path.write_text(f"{number}\n")
    monkeypatch.setattr(watches, "_LIMIT", path)


def test_each_fleet_and_each_listener_takes_one() -> None:
    assert watches.needed([ROUTE]) - watches.needed([]) == 31


def test_more_than_the_kernel_gives_is_refused_with_the_command_to_type(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    limit(monkeypatch, tmp_path, 20)
    with pytest.raises(Permanent) as caught:
        watches.check_watches([ROUTE], None)
    assert caught.value.code == "edge-watch-limit"
    assert "sysctl" in (caught.value.remedy or "")


def test_what_others_use_is_not_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(watches, "_used_by_others", lambda pid: 80)
    limit(monkeypatch, tmp_path, 100)
    with pytest.raises(Permanent):
        watches.check_watches([ROUTE], None)
    limit(monkeypatch, tmp_path, 120)
    watches.check_watches([ROUTE], None)


def test_an_inotify_instance_of_a_process_is_seen() -> None:
    here = Path(f"/proc/{os.getpid()}")
    before = watches._used_by(here)
    handle = ctypes.CDLL(None).inotify_init1(0)
    try:
        assert watches._used_by(here) == before + 1
    finally:
        os.close(handle)
