"""Who one is to a registry: each form of Docker's own configuration, and its helpers."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from rebake.errors import Permanent
from rebake.registry.credentials import Credentials, DockerConfig

HOST = "registry.example.com"


def config(folder: Path, document: Any) -> DockerConfig:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(document if isinstance(document, str) else json.dumps(document))
    return DockerConfig({"DOCKER_CONFIG": str(folder), "PATH": f"{folder}:/usr/bin:/bin"})


def helper(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    program = folder / f"docker-credential-{name}"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def auth(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize("key", [HOST, f"https://{HOST}", f"https://{HOST}/v2/", f"http://{HOST}"])
def test_an_entry_is_found_under_every_spelling_of_the_registry(key: str, tmp_path: Path) -> None:
    known = config(tmp_path, {"auths": {key: {"auth": auth("anna:se:cret")}}})
    assert known.credentials(HOST) == Credentials("anna", "se:cret")
    assert known.credentials("other.example.com") is None


def test_a_user_in_plain_words_and_an_identity_token_are_taken(tmp_path: Path) -> None:
    entries = {HOST: {"username": "anna", "password": "x"}, "r2.example.com": {"auth": "", "identitytoken": "t"}}
    known = config(tmp_path, {"auths": entries})
    assert known.credentials(HOST) == Credentials("anna", "x")
    assert known.credentials("r2.example.com") == Credentials(identity_token="t")


def test_docker_hub_is_known_by_its_old_address(tmp_path: Path) -> None:
    known = config(tmp_path, {"auths": {"https://index.docker.io/v1/": {"auth": auth("anna:x")}}})
    assert known.credentials("docker.io") == Credentials("anna", "x")


def test_the_home_of_the_user_is_looked_in_without_a_folder_of_its_own(tmp_path: Path) -> None:
    config(tmp_path / ".docker", {"auths": {HOST: {"auth": auth("anna:x")}}})
    assert DockerConfig({"HOME": str(tmp_path)}).credentials(HOST) == Credentials("anna", "x")
    assert DockerConfig({"HOME": str(tmp_path / "nobody")}).credentials(HOST) is None


def test_a_helper_of_the_registry_comes_before_the_store_of_all(tmp_path: Path) -> None:
    helper(tmp_path, "one", """read -r host; echo "{\\"Username\\": \\"one\\", \\"Secret\\": \\"$host\\"}\"""")
    helper(tmp_path, "all", """echo '{"Username": "<token>", "Secret": "t"}'""")
    known = config(tmp_path, {"credsStore": "all", "credHelpers": {HOST: "one"}})
    assert known.credentials(HOST) == Credentials("one", HOST)
    assert known.credentials("other.example.com") == Credentials(identity_token="t")


def test_a_helper_that_knows_nobody_leaves_it_to_the_file(tmp_path: Path) -> None:
    helper(tmp_path, "all", "echo 'credentials not found in native keychain'; exit 1")
    known = config(tmp_path, {"credsStore": "all", "auths": {HOST: {"auth": auth("anna:x")}}})
    assert known.credentials(HOST) == Credentials("anna", "x")
    assert known.credentials("other.example.com") is None


@pytest.mark.parametrize("script", [None, "echo broken >&2; exit 3", "echo hello", """echo '{"Secret": "hunter2"}'"""])
def test_a_helper_that_fails_is_an_error_and_shows_no_secret(script: str | None, tmp_path: Path) -> None:
    if script is not None:
        helper(tmp_path, "all", script)
    with pytest.raises(Permanent) as failed:
        config(tmp_path, {"credsStore": "all"}).credentials(HOST)
    assert failed.value.code == "credential-helper-failed"
    assert "hunter2" not in str(failed.value.to_json())


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"auths": {HOST: {"auth": "not base64!"}}})])
def test_a_configuration_that_cannot_be_read_is_named(text: str, tmp_path: Path) -> None:
    with pytest.raises(Permanent) as unreadable:
        config(tmp_path, text).credentials(HOST)
    assert unreadable.value.code == "docker-config-unreadable"
    assert unreadable.value.where == str(tmp_path / "config.json")


def test_credentials_do_not_show_themselves() -> None:
    assert "hunter2" not in repr(Credentials("anna", "hunter2", "hunter2"))
