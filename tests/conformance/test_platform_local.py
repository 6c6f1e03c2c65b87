"""The `local` platform passes the suite that every platform passes: real layers, real processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from tests.servers import COMMAND, SERVER

from rebake.core.home import Home
from rebake.platforms.local.platform import LocalPlatform
from rebake.platforms.model import Instance
from rebake.release.manifest import Health, Release, RunContract
from rebake.testing.conformance.platform import PlatformBench, PlatformConformance, eventually, get
from rebake.testing.releases import TinyStore, tar_of


class LocalBench:
    """Makes releases and platforms over one home."""

    def __init__(self, root: Path) -> None:
        self._home = Home(root / "home")
        self._store = TinyStore(root / "blobs")
        self._platforms = [self._open()]

    def _open(self) -> LocalPlatform:
        return LocalPlatform(self._home, self._store, self)

    def secret(self, version: str) -> str:
        raise AssertionError("no secrets here")

    @property
    def platform(self) -> LocalPlatform:
        return self._platforms[0]

    def again(self) -> LocalPlatform:
        self._platforms.append(self._open())
        return self._platforms[-1]

    def release(self, marker: str, status: int = 200) -> Release:
        source = SERVER.format(marker=marker, status=status)
        run = RunContract(COMMAND, health=Health(interval_ms=100))
        return self._store.add(run, tar_of({"app/server.py": source}))

    def sick_release(self) -> Release:
        return self.release("sick", 500)

    def short_lived_release(self) -> Release:
        source = "import sys; print('cannot start', file=sys.stderr); sys.exit(3)"
        return self._store.add(RunContract(("python", "main.py")), tar_of({"app/main.py": source}))

    def damaged_release(self) -> Release:
        release = self.release("damaged")
        blob = self._store.blob_path(release.layers[0].digest)
        blob.write_bytes(blob.read_bytes().replace(b"damaged", b"DAMAGED"))
        return release

    def crash(self, instance: Instance) -> None:
        assert instance.pid is not None
        os.kill(instance.pid, signal.SIGKILL)

    def get(self, instance: Instance, path: str = "/") -> tuple[int, str]:
        return get(instance, path)

    def close(self) -> None:
        """Leave no process behind, whatever the test did."""
        for platform in self._platforms:
            platform.close()
        closing = self._open()
        try:
            for path in list(self._home.instances.glob("[!.]*")):
                eventually(partial(retired, closing, path), partial("{} is still there".format, path))
        finally:
            closing.close()


def retired(platform: LocalPlatform, folder: Path) -> bool:
    platform.retire(folder.name, 0)
    return not folder.exists()


@pytest.mark.real
class TestLocalPlatform(PlatformConformance):
    @pytest.fixture
    def bench(self, tmp_path: Path) -> Iterator[PlatformBench]:
        bench = LocalBench(tmp_path)
        yield bench
        bench.close()
