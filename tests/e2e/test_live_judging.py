"""The judge on real traffic: what only records of single requests can show."""

from __future__ import annotations

import pytest

from rebake.tour.load import Load, Request
from tests.e2e.site import Site

pytestmark = pytest.mark.real

HALF = "    strategy: {canary: {steps: [50%], hold: 30s}}\n    soak: 5m\n"
PATHS = (*[Request("/")] * 9, Request("/orders/17"))


def test_one_endpoint_that_fails_is_named(site: Site) -> None:
    assert site.deploy().code == 0
    site.describe(HALF)
    site.edit("failing = ", 'failing = self.path.startswith("/orders") or ')
    with Load(site.url, 100, PATHS) as load:
        taken_back = site.deploy()
        report = load.stop()
    assert taken_back.code == 3, taken_back.err
    assert "GET /orders/{id}" in taken_back.doc["verdict"]["reason"], taken_back.doc
    assert report.lost == 0, report.losses
