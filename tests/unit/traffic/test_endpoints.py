"""Paths as endpoints: ids folded, and never too many."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebake.traffic.endpoints import IDLE_SECONDS, MOST_ENDPOINTS, OTHER, SIGHTINGS, Endpoints, fold


@pytest.mark.parametrize(
    ("path", "endpoint"),
    [
        ("/", "GET /"),
        ("/orders", "GET /orders"),
        ("/orders/17", "GET /orders/{id}"),
        ("/orders/17/items/3", "GET /orders/{id}/items/{id}"),
        ("/orders/6fa459ea-ee8a-3ca4-894e-db77e160355e", "GET /orders/{id}"),
        ("/blobs/9f86d081884c7d65", "GET /blobs/{id}"),
        ("/reports/2026-11-23", "GET /reports/{id}"),
        ("/users/user_9f3k2x1c", "GET /users/{id}"),
        ("/sessions/eyJhbGciOiJIUzI1NiJ9x7", "GET /sessions/{id}"),
        ("/v2/deadbeef", "GET /v2/deadbeef"),
        ("/search?q=17", "GET /search"),
        ("/a b", "GET /{…}"),
        ("/a/b/c/d/e/f/g/h/i", "GET /a/b/c/d/e/f/{…}"),
    ],
)
def test_ids_are_folded_and_words_stay(path: str, endpoint: str) -> None:
    assert fold("GET", path) == endpoint


def test_made_up_methods_are_one() -> None:
    assert {fold(m, "/") for m in ("BREW", "get", "", "\x00")} == {"OTHER /"}


@given(st.text(max_size=20), st.text(max_size=3000))
def test_whatever_is_asked_for_the_name_is_short_and_printable(method: str, path: str) -> None:
    name = fold(method, path)
    assert len(name) <= 400
    assert name.isprintable()


def meet(endpoints: Endpoints, name: str, status: int = 200, second: int = 1000) -> list[str]:
    return [endpoints.name(name, status, second) for _ in range(SIGHTINGS)]


def test_an_endpoint_is_told_apart_from_its_third_sighting_on() -> None:
    endpoints = Endpoints()
    assert meet(endpoints, "GET /a") == [OTHER, OTHER, "GET /a"]
    assert endpoints.names == ["GET /a"]


def test_paths_that_do_not_exist_take_no_place_but_a_known_endpoint_keeps_its_name() -> None:
    endpoints = Endpoints()
    assert set(meet(endpoints, "GET /admin.php", status=404) * 3) == {OTHER}
    meet(endpoints, "GET /a")
    assert endpoints.name("GET /a", 404, 1000) == "GET /a"


def test_a_flood_of_paths_leaves_the_services_own_their_places() -> None:
    endpoints = Endpoints()
    meet(endpoints, "GET /a")
    for number in range(100_000):
        assert endpoints.name(f"GET /x{number}", 200, 1000) == OTHER
    assert meet(endpoints, "GET /b")[-1] == "GET /b"
    assert endpoints.names == ["GET /a", "GET /b"]


def test_there_are_never_more_and_an_idle_one_gives_its_place_up() -> None:
    endpoints = Endpoints()
    for number in range(MOST_ENDPOINTS + 5):
        meet(endpoints, f"GET /{number}x")
    assert len(endpoints.names) == MOST_ENDPOINTS
    assert meet(endpoints, "GET /late", second=1000 + IDLE_SECONDS)[-1] == "GET /late"
    assert len(endpoints.names) == MOST_ENDPOINTS


def test_a_restarted_reader_tells_the_same_ones_apart() -> None:
    assert Endpoints(["GET /a"]).name("GET /a", 500, 1) == "GET /a"
