"""Images that are releases as they are: one that exists (`image`), and one that a Dockerfile makes (`dockerfile`)."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from rebake.bake.baker import Baker, machine
from rebake.bake.builders.dockerfile import TOOLS, DockerfileBuilder
from rebake.bake.ports import BakeRequest, ToolResult
from rebake.core.digest import digest_bytes
from rebake.errors import BakeError
from rebake.platforms.command import expand
from rebake.platforms.docker.archive import archive, image_of
from rebake.platforms.docker.client import DockerClient
from rebake.release.manifest import Release, RunContract
from rebake.release.store import Store
from rebake.testing.docker_engine import DockerEngine
from rebake.testing.images import base_layer
from tests.unit.bake.conftest import Bake, write
from tests.unit.bake.test_bases import Layout, image_config, small_layer

NOTHING = RunContract(())


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "image")


@pytest.fixture
def taken(bake: Bake, source: Path, layout: Layout) -> Any:
    """Takes an image with this config as a release."""

    def run(contract: RunContract = NOTHING, **config: Any) -> Release:
        layout.index(layout.image(small_layer(), **config))
        return bake(source, builder="image", base=layout.base, run=contract).release

    return run


def test_an_image_is_taken_as_it_is_with_what_it_says_of_its_running(taken: Any, store: Store) -> None:
    release = taken(
        Entrypoint=["/bin/serve"],
        Cmd=["--cost", "$5"],
        Env=["PATH=/opt/bin", "GREETING=hello"],
        WorkingDir="/srv",
        User="1000",
        ExposedPorts={"80/tcp": {}},
    )
    assert [layer.role for layer in release.layers] == ["base"]
    assert (release.builder, release.run.port, release.runtime.platform) == ("image", 80, machine())
    assert expand(release.run.command, {"PORT": "80"}) == ("/bin/serve", "--cost", "$5")
    config = image_config(store, release.digest)
    assert (config["WorkingDir"], config["User"]) == ("/srv", "1000")
    assert "PATH=/opt/bin" in config["Env"], "nothing of ours comes before it"


def test_what_the_file_says_wins_over_the_image(taken: Any, store: Store) -> None:
    mine = RunContract(("/bin/other", "$PORT"), 9000, env={"GREETING": "mine"})
    release = taken(mine, Cmd=["/bin/serve"], Env=["GREETING=theirs"], ExposedPorts={"80/tcp": {}})
    assert release.run == mine
    assert "GREETING=mine" in image_config(store, release.digest)["Env"]


def test_an_image_of_root_runs_as_nobody_and_one_with_several_ports_says_none(taken: Any, store: Store) -> None:
    release = taken(Cmd=["/x"], User="root", ExposedPorts={"80/tcp": {}, "443": {}, "53/udp": {}})
    assert image_config(store, release.digest)["User"] == "65532:65532"
    assert release.run.port is None
    assert taken(Cmd=["/x"], ExposedPorts={"80": {}, "53/udp": {}}).run.port == 80


def test_of_several_ports_the_file_must_say_which(bake: Bake, source: Path, layout: Layout) -> None:
    layout.index(layout.image(small_layer(), Cmd=["/x"], ExposedPorts={"9090/tcp": {}, "80/tcp": {}}))
    (note,) = bake(source, builder="image", base=layout.base, run=NOTHING).notes
    assert "80, 9090" in note
    assert "run.port" in note
    assert not bake(source, builder="image", base=layout.base, run=RunContract((), 80)).notes


def test_an_image_that_runs_nothing_needs_a_command(taken: Any) -> None:
    with pytest.raises(BakeError) as refused:
        taken()
    assert (refused.value.code, refused.value.where) == ("image-without-command", "run.command")


def test_the_same_image_is_the_same_release_and_another_run_contract_another(taken: Any) -> None:
    first = taken(Cmd=["/x"])
    assert taken(Cmd=["/x"]).digest == first.digest
    assert taken(RunContract(("/y",)), Cmd=["/x"]).digest != first.digest


# -- dockerfile --------------------------------------------------------------------------------------------------------


class ScriptedTools:
    """Stands for docker, podman or buildah: `save` writes the archive that the test made."""

    def __init__(self, archive: bytes, status: int = 0) -> None:
        self.archive, self.status = archive, status
        self.commands: list[list[str]] = []

    def run(self, command: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None = None) -> ToolResult:
        self.commands.append(list(command))
        if "--iidfile" in command:
            Path(command[command.index("--iidfile") + 1]).write_text("sha256:abc\n")
        if "--output" in command:
            Path(command[command.index("--output") + 1]).write_bytes(self.archive)
        if command[1] == "push":
            Path(command[-1].removeprefix("docker-archive:")).write_bytes(self.archive)
        return ToolResult(self.status, "", "Step 2/3: \x1b[91mno such file\x1b[0m\n")


def saved(layers: Sequence[bytes], names: Sequence[str], links: Mapping[str, str] | None = None) -> bytes:
    """An archive as `docker save` writes it."""
    system, architecture = machine().split("/")
    rootfs = {"type": "layers", "diff_ids": [digest_bytes(layer) for layer in layers]}
    config = json.dumps({"os": system, "architecture": architecture, "config": {"Cmd": ["/x"]}, "rootfs": rootfs})
    index = json.dumps([{"Config": "config.json", "RepoTags": None, "Layers": list(names)}])
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        documents = [("config.json", config.encode()), ("manifest.json", index.encode())]
        for name, data in [*documents, *zip(names, layers, strict=True)]:
            member = tarfile.TarInfo(name)
            if links and name in links:
                member.type, member.linkname = tarfile.SYMTYPE, links[name]
                tar.addfile(member)
            else:
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def built(store: Store, source: Path, tools: ScriptedTools, *there: str, file: str = "Dockerfile") -> Release:
    builder = DockerfileBuilder(tools, lambda name: name if name in there else None)
    request = BakeRequest("shop", "dockerfile", source, NOTHING, dockerfile=file)
    return Baker(store, [builder]).bake(request, lambda _: None).release


@pytest.mark.parametrize("tool", TOOLS)
def test_each_tool_is_asked_in_its_own_words(store: Store, source: Path, tool: str) -> None:
    write(source, {"Dockerfile": "FROM scratch"})
    tools = ScriptedTools(saved([small_layer()], ["a/layer.tar"]))
    release = built(store, source, tools, tool)
    assert [command[0] for command in tools.commands] == [tool, tool]
    assert tools.commands[0][1:3] == ["build", "--layers" if tool == "buildah" else "--file"]
    assert tools.commands[1][1] == ("push" if tool == "buildah" else "save")
    assert release.base.startswith("dockerfile@sha256:")
    store.verify(release.layers[0].digest)


def test_layers_that_are_links_to_each_other_and_compressed_ones_are_taken_over(store: Store, source: Path) -> None:
    write(source, {"Dockerfile": "FROM scratch"})
    layer = small_layer()
    twice = saved([layer, layer], ["a/layer.tar", "b/layer.tar"], {"b/layer.tar": "../a/layer.tar"})
    release = built(store, source, ScriptedTools(twice), "docker")
    assert [one.digest for one in release.layers] == [digest_bytes(layer)] * 2


@pytest.mark.parametrize("text", [b"", b"no archive", saved([], []).replace(b"manifest.json", b"manifest.yaml")])
def test_an_archive_that_nobody_can_read_is_named(store: Store, source: Path, text: bytes) -> None:
    write(source, {"Dockerfile": "FROM scratch"})
    with pytest.raises(BakeError) as damaged:
        built(store, source, ScriptedTools(text), "docker")
    assert damaged.value.code == "base-damaged"


def test_no_tool_no_file_and_a_build_that_fails_say_what_to_do(store: Store, source: Path) -> None:
    tools = ScriptedTools(b"", status=1)
    with pytest.raises(BakeError) as missing:
        built(store, source, tools)
    assert missing.value.code == "tool-missing"
    with pytest.raises(BakeError) as nowhere:
        built(store, source, tools, "docker", file="docker/Dockerfile")
    assert (nowhere.value.code, "docker/Dockerfile" in nowhere.value.problem) == ("dockerfile-missing", True)
    write(source, {"Dockerfile": "FROM nothing"})
    with pytest.raises(BakeError) as failed:
        built(store, source, tools, "docker")
    assert (failed.value.code, failed.value.evidence) == ("dockerfile-failed", ("Step 2/3: no such file",))


@pytest.mark.real
def test_what_a_dockerfile_makes_runs_as_a_release_read_only_and_as_nobody(
    bake: Bake, source: Path, store: Store, docker_engine: DockerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", docker_engine.host)
    monkeypatch.setenv("PATH", docker_engine.environ["PATH"])
    docker_engine.import_image("tests/python:1", base_layer())
    text = 'FROM tests/python:1\nWORKDIR /srv\nCOPY say.py .\nEXPOSE 8000\nENV TEXT=hello\nCMD ["python", "say.py"]\n'
    write(source, {"Dockerfile": text, "say.py": "import os; print(os.getuid(), os.getcwd(), os.environ['TEXT'])"})
    first = bake(source, builder="dockerfile", run=NOTHING).release
    assert (first.run.command, first.run.port) == (("python", "say.py"), 8000)
    assert bake(source, builder="dockerfile", run=NOTHING).release == first, "the engine's own cache gives the same"
    write(source, {"say.py": "print('other')"})
    assert bake(source, builder="dockerfile", run=NOTHING).release.digest != first.digest
    image = image_of(store, first)
    DockerClient(str(docker_engine.socket)).load(archive(store, image))
    run = ["run", "--rm", "--read-only", "--network", "none", image.facts.id]
    assert docker_engine.docker(*run).split() == ["65532", "/srv", "hello"]
