"""Releases that are bad in known ways, made of the site's service; its callers and its health check see them alike."""

from __future__ import annotations

from rebake.tour.load import Load, Request
from tests.e2e.site import Site

_GOOD = '        failing = self.path == "/" and FAIL_EVERY and count % FAIL_EVERY == 0\n'
USERS = 'self.path != "/healthz"'

FAILING = {
    "good": "False",
    "crash": USERS,
    "+5 points": f"{USERS} and random.random() < 0.05",
    "endpoint": 'self.path.startswith("/orders/")',
}
"""By scenario of the judges' benchmark (`benchmarks.judge_world`): which requests a release fails."""
MISBEHAVING = {
    "hanging": f"        if {USERS}: threading.Event().wait(600)\n",
    "lost": f"        if {USERS}: return self.send_error(404)\n",
    "half answers": (
        f"        if {USERS}:\n            self.send_response(200)\n"
        "            self.send_header('Content-Length', '9')\n            self.end_headers()\n"
        "            self.wfile.write(b'half')\n            self.wfile.flush()\n"
        "            threading.Event().wait(600)\n"
    ),
    "sending away": (
        f"        if {USERS}:\n            self.send_response(302)\n"
        "            self.send_header('Location', '/login')\n"
        "            self.send_header('Content-Length', '0')\n            return self.end_headers()\n"
    ),
}
"""What a release does before anything else: it never answers users, finds nothing any more, stops in the middle of
each answer, or sends all to a login."""

MIX = tuple(Request(path, weight=n) for path, n in (("/", 10), ("/notes", 6), ("/items/7", 3), ("/orders/17", 1)))
"""The shares by endpoint of the judges' benchmark: 50, 30, 15 and 5 %."""


def write_release(site: Site, server: str, scenario: str, number: int = 0) -> None:
    """Make the site's source a release of this kind.

    Args:
        server: the site's own service.
        number: makes a release that was not deployed yet, since one that was taken back is quarantined.
    """
    assert _GOOD in server
    text = server.replace(_GOOD, f"        failing = {FAILING[scenario]}\n").replace("import os,", "import os, random,")
    site.write("server.py", f"{text}# {scenario} {number}\n")


def steady(site: Site, rate: float) -> Load:
    """Users who ask for every endpoint, at `rate` requests per second altogether."""
    return Load(site.url, rate, MIX)


def misbehave(site: Site, kind: str) -> None:
    """Make the site's source a release that fails its users without failing."""
    site.edit("        global count\n", f"        global count\n{MISBEHAVING[kind]}")
