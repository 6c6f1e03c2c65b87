"""A real Prometheus server for tests, scraping what a test shows it."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def prometheus(
    folder: Path, targets: Sequence[str], scrape: str = "1s", metrics_path: str = "/metrics"
) -> Iterator[str]:
    """The server's `HOST:PORT`; it may need a moment until it answers."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("needs prometheus: apt-get install prometheus")
    jobs = f"[{{job_name: t, metrics_path: {metrics_path}, static_configs: [{{targets: {list(targets)}}}]}}]"
    (folder / "p.yml").write_text(f"global: {{scrape_interval: {scrape}}}\nscrape_configs: {jobs}\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    arguments = [f"--config.file={folder}/p.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, *arguments, f"--web.listen-address={address}"], stderr=log, stdout=log)
    try:
        yield address
    finally:
        process.terminate()
        process.wait(20)
