"""How long a release goes out of which one small layer changed, beside `docker push` of the same change.

A registry and an engine of our own. Each round changes one file and pushes the new release into a repository that has
the one before; the peer pushes the very same image, loaded and tagged beforehand. Both as whole commands; and our push
alone, from the end of the bake on, as it is within one command. A bare client of the standard library, with its uploads
begun before too, sends no more than the protocol demands and checks nothing: what it takes is the registry's own time.
"""

from __future__ import annotations

import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from rebake.app.registries import Registries
from rebake.cli import workshop
from rebake.core.home import Home
from rebake.platforms.docker.archive import archive, image_of
from rebake.release.documents import MANIFEST_TYPE
from rebake.release.reference import parse_repository
from rebake.release.store import Store
from rebake.testing.docker_engine import DockerEngine, NoEngine
from rebake.testing.images import base_layer
from rebake.testing.registry_server import NoRegistry, RegistryServer

Row = dict[str, Any]
BAR = 0.2
FILE = """\
service: shop
bake: {{builder: files, base: "{host}/bases/python:1", repository: {host}/team/shop}}
run: {{command: [python, server.py]}}
environments: {{production: {{platform: docker, listen: "127.0.0.1:8080"}}}}
"""


def run(quick: bool) -> list[Row]:
    """Rows as in `table`; none, said aloud, where there is no engine or no registry."""
    try:
        registry = RegistryServer()
    except NoRegistry as absent:
        print(f"SKIPPED: {absent}", file=sys.stderr)
        return []
    with registry:
        try:
            engine = DockerEngine()
        except NoEngine as absent:
            print(f"SKIPPED: {absent}", file=sys.stderr)
            return []
        with engine, tempfile.TemporaryDirectory(prefix="rebake-bench-") as root:
            return _measured(Path(root), registry, engine, 5 if quick else 15)


def _measured(root: Path, registry: RegistryServer, engine: DockerEngine, rounds: int) -> list[Row]:
    base = f"{registry.host}/bases/python:1"
    engine.import_image(base, base_layer())
    engine.docker("push", base)
    store = Store(Home(root / "home").store)
    (root / "rebake.yaml").write_text(FILE.format(host=registry.host))
    (root / "server.py").write_text("print()\n")
    _push(root, store, f"{registry.host}/team/bare")
    found: dict[str, list[float]] = {"command": [], "baking": [], "push": [], "docker": [], "bare": []}
    for number in range(rounds + 1):
        for kind, times in found.items():
            (root / "server.py").write_text(f"print({number!r}, {kind!r})\n")
            seconds = _once(kind, root, registry, engine, store)
            if number:  # the first round moves the base, too
                times.append(seconds)
    middle = {kind: statistics.median(values) for kind, values in found.items()}
    peer = middle["docker"]
    return [
        _row("docker push of an image of which one small layer changed", peer),
        _row("the same change by a bare client: the registry's own time", middle["bare"], peer),
        _row("push of the same change, within a command that has baked", middle["push"], peer, BAR),
        _row("rebake bake --push of the same change, whole command", middle["command"], peer),
        _row("of that, rebake bake without --push", middle["baking"], peer),
    ]


def _row(figure: str, value: float, peer: float = 0.0, bar: float | None = None) -> Row:
    ratio = round(value / peer, 3) if peer else None
    ok = None if bar is None or ratio is None else ratio <= bar
    return {"figure": figure, "value": value, "unit": "s", "peer": "docker push", "ratio": ratio, "bar": bar, "ok": ok}


def _once(kind: str, root: Path, registry: RegistryServer, engine: DockerEngine, store: Store) -> float:
    if kind in ("command", "baking"):
        return _seconds(lambda: _bake(root, *(["--push"] if kind == "command" else [])))
    if kind == "push":
        return _push(root, store, f"{registry.host}/team/shop")
    if kind == "bare":
        return _bare(root, store, registry.host, "team/bare")
    digest = _bake(root)
    image = image_of(store, store.release(digest))
    engine.docker("load", stdin=b"".join(archive(store, image)))
    name = f"{registry.host}/team/peer:{digest[7:19]}"
    engine.docker("tag", image.facts.id, name)
    return _seconds(lambda: engine.docker("push", name))


def _bake(root: Path, *words: str) -> str:
    command = [sys.executable, "-m", "rebake.cli", "bake", "--json", *words]
    environ = {**os.environ, "REBAKE_HOME": str(root / "home")}
    done = subprocess.run(command, cwd=root, env=environ, check=True, capture_output=True)
    return str(json.loads(done.stdout)["release"])


def _push(root: Path, store: Store, repository: str) -> float:
    """As the command does it: what can be got ready before the release is there is, while it is baked."""
    place = parse_repository(repository)
    with Registries(os.environ) as registries:
        registries.prepare(store, place)
        digest = _baked_here(root, registries)
        return _seconds(lambda: registries.push(store, digest, place, lambda _: None))


def _baked_here(root: Path, registries: Registries) -> str:
    """The bake of a command, in this process."""
    home = Home(root / "home")
    result = workshop.bake(home, workshop.read_file(home, root / "rebake.yaml"), registries, lambda _: None)
    return str(result.release.digest)


def _bare(root: Path, store: Store, host: str, repository: str) -> float:
    """Layer and configuration side by side, each in one request; then the manifest. Returns: seconds of that."""
    servers = [http.client.HTTPConnection(host) for _ in range(2)]
    places = [urlsplit(_ask(server, "POST", f"/v2/{repository}/blobs/uploads/", b"", "")) for server in servers]
    with Registries(os.environ) as registries:
        digest = _baked_here(root, registries)
    image, manifest = store.read_json(digest), store.blobs.read(digest)
    rows = [image["config"], image["layers"][-1]]

    def blob(server: http.client.HTTPConnection, place: SplitResult, row: Any) -> None:
        data = store.blob_path(row["digest"]).read_bytes()
        _ask(server, "PUT", f"{place.path}?{place.query}&digest={row['digest']}", data, "application/octet-stream")

    def all_of_it() -> None:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(blob, servers, places, rows))
        _ask(servers[0], "PUT", f"/v2/{repository}/manifests/{digest[7:19]}", manifest, MANIFEST_TYPE)

    return _seconds(all_of_it)


def _ask(server: http.client.HTTPConnection, method: str, path: str, data: bytes, kind: str) -> str:
    """Returns: where the answer says that it goes on."""
    server.request(method, path, data, {"Content-Type": kind} if kind else {})
    answer = server.getresponse()
    answer.read()
    assert answer.status in (201, 202), answer.status
    return answer.headers["Location"]


def _seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


if __name__ == "__main__":
    from benchmarks.table import show

    sys.exit(show(run("--quick" in sys.argv)))
