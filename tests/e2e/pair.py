"""One real service in two environments that are deployed together, as a release group."""

from __future__ import annotations

import sys
import urllib.request
from pathlib import Path
from typing import Any

from rebake.tour.load import Load, Request
from rebake.tour.stage import free_ports
from tests.e2e.site import HEAD, SERVER, Done, Site, until

SECOND = "second"
PLACES = ("production", SECOND)
_FAILS = "FAIL_EVERY = int(os.environ.get('FAIL_EVERY', '0'))\n"
_SOURS = '        failing = failing or os.path.exists(os.path.join(os.environ["REBAKE_DATA"], "sour"))\n'
_BEFORE = "        text = "
assert "FAIL_EVERY = 0\n" in SERVER
assert SERVER.count(_BEFORE) == 1

GROUP = "group: all\norder: {order}\nmembers:\n  - {{environment: production}}\n  - {{environment: second}}\n"
ENVIRONMENT = """\
  {name}:
    platform: local
    instances: 2
    listen: 127.0.0.1:{port}
    drift_interval: 1s
    strategy: {strategy}
    soak: {soak}
    env: {env}
"""


class Pair(Site):
    """A `Site` whose service has a second environment.

    An environment's `FAIL_EVERY` makes its instances fail every so manieth request; a release that sours fails all
    requests in the environments where `sour` was called.
    """

    server = SERVER

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.ports = dict(zip(PLACES, (self.port, *free_ports(1)), strict=True))

    def source(self, text: str, *, sours: bool = False) -> None:
        code = self.server.replace('TEXT = "one"', f"TEXT = {text!r}").replace("FAIL_EVERY = 0\n", _FAILS)
        self.write("server.py", code.replace(_BEFORE, _SOURS + _BEFORE) if sours else code)

    def describe_both(self, strategy: str, soak: str, *, second_env: str = "{}", order: str = "lockstep") -> None:
        parts = [HEAD.format(python=sys.executable)]
        for name, port in self.ports.items():
            env = second_env if name == SECOND else "{}"
            parts.append(ENVIRONMENT.format(name=name, port=port, strategy=strategy, soak=soak, env=env))
        self.write("rebake.yaml", "".join(parts))
        self.write("all.yaml", GROUP.format(order=order))

    def begin(self) -> None:
        """A first release in both."""
        self.source("v0")
        self.describe_both("all-at-once", "0s")
        for name in PLACES:
            done = self.rebake("deploy", name, "--until", "end", "--json")
            assert done.code == 0, done.err

    def deploy_group(self, *words: str) -> Done:
        return self.rebake("deploy", "--group", "all.yaml", "--json", *words)

    def group(self) -> dict[str, Any]:
        return self.asked("/v1/groups/all") or self.rebake("status", "--group", "all", "--json").doc

    def until_ended(self, seconds: float = 60.0) -> dict[str, Any]:
        """Wait until every member is over, its soak too. The group then."""
        until(lambda: self.group()["ended"], seconds)
        return self.group()

    def loads(self, rate: float) -> list[Load]:
        return [Load(f"http://127.0.0.1:{port}", rate, (Request("/"),)) for port in self.ports.values()]

    def texts(self) -> list[str]:
        """What users of each environment read."""
        found = []
        for port in self.ports.values():
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
                found.append(answer.read().decode().strip())
        return found

    def sour(self, name: str) -> None:
        (self.home / "data" / "shop" / name / "sour").touch()

    def clear(self) -> list[int]:
        if self.home.exists():
            self.rebake("down", SECOND, "--yes")
        return super().clear()
