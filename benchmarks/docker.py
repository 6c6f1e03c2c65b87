"""How long a deploy to containers takes, beside the service's own start and a recreation of the same container.

An engine of our own, the real command line, agent and Envoy, a steady load. The peer is what `docker compose up -d`
does with a changed image: stop the container, remove it, create and start another one on the same port; by
docker-compose where it is installed, else by those commands of the client. One client asks both for the same answer.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.e2e.dock import Dock

from rebake.platforms.docker.archive import archive, image_of
from rebake.testing.docker_engine import DockerEngine, NoEngine
from rebake.tour.load import Load, Request
from rebake.tour.stage import free_ports

Row = dict[str, Any]
EXTRA_SECONDS = 1.5
RATE = 50.0
COMPOSE = "services:\n  shop:\n    image: {image}\n    ports: ['127.0.0.1:{port}:8000']\n    init: true\n"


def run(quick: bool) -> list[Row]:
    """Rows of {"figure", "value", "unit", "peer", "ratio", "bar", "ok"}; none, said aloud, where there is no engine."""
    try:
        engine = DockerEngine()
    except NoEngine as absent:
        print(f"SKIPPED: {absent}", file=sys.stderr)
        return []
    with engine, tempfile.TemporaryDirectory(prefix="rebake-bench-", ignore_cleanup_errors=True) as root:
        dock = Dock(Path(root), engine)
        try:
            return _measured(dock, 3 if quick else 7)
        finally:
            dock.clear()


def _measured(dock: Dock, rounds: int) -> list[Row]:
    starts = [_own_start(dock, _image(dock, "start")) for _ in range(rounds)]
    deploys, ours = _deploys(dock, rounds)
    swaps, theirs, peer = _swaps(dock, rounds)
    own, deploy, swap = statistics.median(starts), statistics.median(deploys), statistics.median(swaps)
    bar = own + EXTRA_SECONDS
    return [
        _row("the service's own start in a container", own, "s"),
        _row(
            "blue-green deploy of a baked release to docker, whole command",
            deploy,
            "s",
            bar,
            peer="own start",
            beside=own,
        ),
        _row("the same, beside a recreation", deploy, "s", peer=peer, beside=swap),
        _row(f"requests lost over {rounds} deploys", float(ours), "requests", 0.0),
        _row(f"requests lost over {rounds} recreations: {peer}", float(theirs), "requests"),
    ]


def _row(figure: str, value: float, unit: str, bar: float | None = None, *, peer: str = "", beside: float = 0.0) -> Row:
    ratio = round(value / beside, 3) if beside else None
    ok = None if bar is None else value <= bar
    return {"figure": figure, "value": value, "unit": unit, "peer": peer, "ratio": ratio, "bar": bar, "ok": ok}


def _seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def _image(dock: Dock, text: str) -> str:
    """A sealed release in the engine, by its image's ID."""
    release = dock.releases.store.release(dock.seal(**{'TEXT = "one"': f'TEXT = "{text}"'}))
    image = image_of(dock.releases.store, release)
    dock.engine.docker("load", stdin=b"".join(archive(dock.releases.store, image)))
    return image.facts.id


def _answers(port: int) -> None:
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=1):
                return
        except OSError:
            time.sleep(0.005)


@contextmanager
def _network(engine: DockerEngine) -> Iterator[str]:
    engine.docker("network", "create", "bench")
    try:
        yield "bench"
    finally:
        engine.docker("network", "rm", "bench", check=False)


def _own_start(dock: Dock, image: str) -> float:
    """From asking the engine to the first healthy answer, without rebake."""
    port = free_ports(1)[0]
    with _network(dock.engine) as network:
        began = time.perf_counter()
        _start(dock, image, port, network)
        _answers(port)
        seconds = time.perf_counter() - began
        dock.engine.docker("rm", "-f", "peer")
    return seconds


def _start(dock: Dock, image: str, port: int, network: str) -> None:
    published = ["-p", f"127.0.0.1:{port}:8000", "--network", network, "--init"]
    dock.engine.docker("run", "-d", "--name", "peer", *published, "-e", "PORT=8000", "-e", "HOST=0.0.0.0", image)


def _deploys(dock: Dock, rounds: int) -> tuple[list[float], int]:
    assert dock.ship("first").code == 0
    found = []
    with Load(dock.url, RATE, (Request("/"),)) as load:
        for number in range(rounds):
            digest = dock.seal(**{'TEXT = "one"': f'TEXT = "{number}"'})
            found.append(_seconds(lambda: _must(dock, digest)))  # noqa: B023
        return found, load.stop().lost


def _must(dock: Dock, digest: str) -> None:
    done = dock.deploy("--release", digest)
    assert done.code == 0, done.err


def _swaps(dock: Dock, rounds: int) -> tuple[list[float], int, str]:
    port = free_ports(1)[0]
    images = [_image(dock, f"swap {number}") for number in range(rounds + 1)]
    compose = shutil.which("docker-compose")
    with _network(dock.engine) as network:

        def swap(image: str) -> None:
            if compose is not None:
                (dock.root / "compose.yaml").write_text(COMPOSE.format(image=image, port=port))
                command = [compose, "-f", str(dock.root / "compose.yaml"), "-p", "peer", "up", "-d"]
                subprocess.run(command, env={**dock.engine.environ}, check=True, capture_output=True)
            else:
                dock.engine.docker("stop", "peer", check=False)
                dock.engine.docker("rm", "peer", check=False)
                _start(dock, image, port, network)
            _answers(port)

        swap(images[0])
        found = []
        with Load(f"http://127.0.0.1:{port}", RATE, (Request("/"),)) as load:
            for image in images[1:]:
                found.append(_seconds(lambda: swap(image)))  # noqa: B023
            lost = load.stop().lost
        dock.engine.clear()
    return found, lost, "docker-compose up -d" if compose else "docker stop, rm, run"


if __name__ == "__main__":
    from benchmarks.table import show

    sys.exit(show(run("--quick" in sys.argv)))
