"""Names never collide and never leave their folder."""

from __future__ import annotations

import pytest

from rebake.errors import Permanent
from rebake.traffic.envoy import names, url
from rebake.traffic.envoy.listening import overlaps


def test_no_two_environments_share_a_key() -> None:
    assert names.environment_key("a.b", "c") != names.environment_key("a", "b.c")
    keys = {names.environment_key(s, e) for s in ("a", "a-b", "a/b") for e in ("c", "b-c", "../x")}
    assert len(keys) == 9
    assert not any("/" in key for key in keys)


def test_a_fleet_called_like_a_path_stays_in_its_folder() -> None:
    assert "/" not in names.file_name(names.cluster_name("shop", "production", "../../etc/passwd"))


def test_preview_and_mirror_are_clusters_of_their_own() -> None:
    cluster = names.cluster_name("shop", "production", "f1")
    assert len({cluster, names.preview_name(cluster), names.mirror_name(cluster)}) == 3


def test_a_colon_in_a_fleet_is_found_again_in_the_statistics() -> None:
    assert names.stat_name("shop/production/sha256:ab") == "shop/production/sha256_ab"


@pytest.mark.parametrize("address", ["", "8080", "host:80", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:x", "[::1]"])
def test_what_is_no_address_is_refused_with_an_example(address: str) -> None:
    with pytest.raises(Permanent) as caught:
        names.split_address(address)
    assert caught.value.code == "address-not-an-ip"
    assert "127.0.0.1:8080" in caught.value.problem


@pytest.mark.parametrize(
    ("listen", "shown"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:8080/"),
        ("0.0.0.0:80", "http://127.0.0.1/"),
        ("[::]:8080", "http://[::1]:8080/"),
        ("localhost:81", "http://127.0.0.1:81/"),
    ],
)
def test_the_address_is_shown_as_a_browser_opens_it(listen: str, shown: str) -> None:
    assert url(listen) == shown


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("127.0.0.1:80", "127.0.0.1:80", True),
        ("0.0.0.0:80", "127.0.0.1:80", True),
        ("127.0.0.1:80", "[::]:80", True),
        ("127.0.0.1:80", "127.0.0.1:81", False),
        ("127.0.0.1:80", "127.0.0.2:80", False),
    ],
)
def test_addresses_that_cannot_both_be_open_are_known(one: str, other: str, expected: bool) -> None:
    assert overlaps(one, other) is expected
    assert overlaps(other, one) is expected
