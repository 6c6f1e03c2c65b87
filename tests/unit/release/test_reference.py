"""References to images, as people write them."""

from __future__ import annotations

import pytest

from rebake.release.reference import parse_reference, parse_repository

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("python:3.12", "docker.io/library/python:3.12"),
        ("docker.io/python:3.12", "docker.io/library/python:3.12"),
        ("team/shop:1", "docker.io/team/shop:1"),
        ("localhost/shop:1", "localhost/shop:1"),
        ("registry.example.com/team/shop:1.2-x", "registry.example.com/team/shop:1.2-x"),
        ("127.0.0.1:5000/shop:v1", "127.0.0.1:5000/shop:v1"),
        ("[::1]:5000/shop:v1", "[::1]:5000/shop:v1"),
        (f"registry.example.com/shop@{DIGEST}", f"registry.example.com/shop@{DIGEST}"),
        (f"registry.example.com/shop:1@{DIGEST}", f"registry.example.com/shop:1@{DIGEST}"),
    ],
)
def test_an_image_is_read_as_docker_reads_it(text: str, whole: str) -> None:
    assert str(parse_reference(text)) == whole
    assert parse_reference(whole) == parse_reference(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hots",
        "python",
        "Python:3",
        "python:",
        ":3",
        "a//b:1",
        "-x:1",
        "shop@sha256:abc",
        "r.example.com/:1",
        "a b:1",
    ],
)
def test_what_names_no_image_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected an image"):
        parse_reference(text)


def test_a_repository_has_neither_tag_nor_digest() -> None:
    assert parse_repository("registry.example.com:5000/team/shop").registry == "registry.example.com:5000"
    for text in ("registry.example.com/shop:1", f"registry.example.com/shop@{DIGEST}"):
        with pytest.raises(ValueError, match="without a tag"):
            parse_repository(text)
