"""Differences between a container as it is and what was asked of the engine: pure comparison of what was read.

Rules:
- The request that made it is the measure; a value the request does not name is not judged.
- A mount needs a place in the image's root: the engine makes it, so a path that is a mount, or leads to one, is no
  changed file.
- Values of secrets are never shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from rebake.platforms.model import Drift, DriftKind

_KINDS: Mapping[int, DriftKind] = {0: "file-changed", 1: "file-added", 2: "file-removed"}
_SHOWN = 20
_LIMITS = ("Memory", "MemorySwap", "NanoCpus", "PidsLimit")
_SAFETY = ("ReadonlyRootfs", "Privileged", "CapDrop", "CapAdd", "SecurityOpt", "RestartPolicy")
_OWN = ("/sbin/docker-init", "/dev/init", "/run/podman-init", "/dev/console", "/run/.containerenv", "/etc/mtab")
"""What the engines themselves put into a container's root."""
_PODMANS = ("/etc/passwd", "/etc/group")
"""Where Podman notes who a container runs as. Source: podman-run(1), --passwd."""
_ALWAYS_THERE = frozenset(
    {"CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE"}
    | {"SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"}
)
"""Capabilities that each engine gives unless told otherwise. Source: containers.conf(5), default_capabilities."""


def container_drift(
    instance: str, request: Mapping[str, Any], found: Mapping[str, Any], secrets: Iterable[str] = ()
) -> Iterator[Drift]:
    """Image, command, environment, limits, safety, network and mounts of one container.

    Args:
        request: what was sent to make it, without values of secrets.
        found: what the engine's inspection says now.
        secrets: names whose values are in the environment and not in the request.
    """
    config, host = found.get("Config") or {}, found.get("HostConfig") or {}
    if found.get("Image") != request["Image"]:
        yield Drift("image", instance, str(request["Image"]), str(found.get("Image")))
    command = [*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ())]
    if request["Entrypoint"] and command != request["Entrypoint"]:
        yield Drift("command", instance, str(request["Entrypoint"]), str(command))
    if config.get("User", "") != request["User"]:
        yield Drift("configuration", f"{instance}: User", request["User"], str(config.get("User", "")))
    yield from _environment(instance, request, config, frozenset(secrets))
    if _is_podmans(config) and request["HostConfig"].get("CapDrop") == ["ALL"]:
        host = {**host, "CapDrop": _dropped(host.get("CapDrop") or ())}
    yield from _settings(instance, request["HostConfig"], host)
    yield from _network(instance, request["HostConfig"]["NetworkMode"], found)
    yield from _mounts(instance, request["HostConfig"], found)


def _is_podmans(config: Mapping[str, Any]) -> bool:
    return "container=podman" in (config.get("Env") or ())


def _dropped(names: Iterable[str]) -> list[str]:
    """Podman tells what it would have given and did not, one by one, where all was dropped."""
    found = sorted(names)
    return ["ALL"] if {name.removeprefix("CAP_") for name in found} >= _ALWAYS_THERE else found


def _environment(
    instance: str, request: Mapping[str, Any], config: Mapping[str, Any], secrets: frozenset[str]
) -> Iterator[Drift]:
    have = dict(row.partition("=")[::2] for row in config.get("Env") or ())
    for row in request["Env"]:
        name, _, value = row.partition("=")
        if name not in secrets and have.get(name) != value:
            yield Drift("environment", f"{instance}: {name}", value, "another value" if name in have else "")


def _settings(instance: str, wanted: Mapping[str, Any], host: Mapping[str, Any]) -> Iterator[Drift]:
    for name in _LIMITS:
        if (want := wanted.get(name) or 0) != (have := host.get(name) or 0):
            yield Drift("limits", f"{instance}: {name}", str(want or "no limit"), str(have or "no limit"))
    for name in _SAFETY:
        want, have = wanted.get(name), host.get(name)
        if _plain(want) != _plain(have):
            yield Drift("configuration", f"{instance}: {name}", str(want), str(have))


def _plain(value: Any) -> Any:
    """Engines write the same thing in several ways: none, empty; with or without a prefix, in either case."""
    if isinstance(value, list):
        return sorted(str(one).upper().removeprefix("CAP_").removesuffix(":TRUE") for one in value)
    if isinstance(value, Mapping):
        return {key: inner for key, inner in value.items() if inner}
    return value or ([] if value is None else value)


def _network(instance: str, wanted: str, found: Mapping[str, Any]) -> Iterator[Drift]:
    have = sorted((found.get("NetworkSettings") or {}).get("Networks") or {})
    if have != [wanted] and (found.get("State") or {}).get("Running"):
        yield Drift("network", instance, wanted, ", ".join(have))


def _mounts(instance: str, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[Drift]:
    want = {one["Target"]: not one["ReadOnly"] for one in wanted["Mounts"]}
    have = {one["Destination"]: bool(one.get("RW")) for one in found.get("Mounts") or () if one.get("Type") != "tmpfs"}
    for target in sorted(want.keys() | have.keys()):
        if want.get(target) != have.get(target):
            yield Drift("mounts", f"{instance}: {target}", _access(want.get(target)), _access(have.get(target)))


def _access(writable: bool | None) -> str:
    return {None: "", True: "writable", False: "read-only"}[writable]


def mount_points(found: Mapping[str, Any]) -> set[str]:
    """Every path of the container's root that is a mount, or that the engine made itself."""
    host, config = found.get("HostConfig") or {}, found.get("Config") or {}
    places = {one["Destination"] for one in found.get("Mounts") or ()}
    engines = {*_OWN, *(_PODMANS if _is_podmans(config) else ())}
    return places | set(host.get("Tmpfs") or {}) | engines | {str(config.get("WorkingDir") or "/")}


def changed_files(instance: str, changes: Iterable[Mapping[str, Any]], places: Iterable[str]) -> list[Drift]:
    """Files of the image that were changed, added or removed."""
    known = {PurePosixPath(place) for place in places}
    leading = {parent for place in known for parent in place.parents}
    found = []
    for change in sorted(changes, key=lambda one: str(one["Path"])):
        path, kind = PurePosixPath(change["Path"]), int(change["Kind"])
        made_for_mount = path in known and kind != 2
        if not made_for_mount and not (path in leading and kind != 2):
            found.append(Drift(_KINDS.get(kind, "file-changed"), f"{instance}: {path}"))
    changed = {PurePosixPath(d.where.partition(": ")[2]) for d in found}
    inner = {parent for path in changed for parent in path.parents}
    kept = [d for d in found if d.kind != "file-changed" or PurePosixPath(d.where.partition(": ")[2]) not in inner]
    return kept[:_SHOWN]
