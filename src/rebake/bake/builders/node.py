"""`builder: node`: dependencies installed with `npm ci` from the lock file, and a build script where one is named.

In the image: `deps/node_modules`, its programs also in `deps/bin`, and `app/node_modules` as a link to the former. The
dependency layer holds what production needs; the build runs beside it, in a copy of the source with everything.

npm workspaces and linked folders are refused: their files would lie in both layers.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rebake.bake.ports import Application, BakeRequest, Installed, Item, Memo, Progress, Resolution, ToolResult, Tools
from rebake.bake.tar import EPOCH
from rebake.core.canonical import canonical
from rebake.core.digest import digest_bytes, digest_of
from rebake.errors import BakeError
from rebake.release.manifest import Package, Runtime

_LOCKS = ("npm-shrinkwrap.json", "package-lock.json")
_NEEDED = ("dependencies", "optionalDependencies")
_KEPT = (
    *("name", "version", "dependencies", "devDependencies", "optionalDependencies", "peerDependencies"),
    *("peerDependenciesMeta", "bundleDependencies", "bundledDependencies", "overrides", "engines"),
)
_CI = ["npm", "ci", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"]
_ENV = {"CI": "1", "NO_COLOR": "1", "NODE_ENV": "", "npm_config_production": "", "SOURCE_DATE_EPOCH": str(EPOCH)}


class NodeBuilder:
    """See `ports.Builder` and `ports.ScriptRunner`."""

    name = "node"
    version = 1

    def __init__(self, tools: Tools, memo: Memo) -> None:
        self._tools = tools
        self._memo = memo

    def runtime(self, request: BakeRequest) -> Runtime:
        """Raises: BakeError `tool-missing`."""
        return Runtime("node", self._major(request.source))

    def inputs(self, request: BakeRequest) -> Mapping[str, Any] | None:
        """Raises: BakeError `no-lock-file`, `package-json`, `local-packages`."""
        lock = _lock(request.source)
        if lock is None:
            return None
        name, package, text = lock
        return {
            "lock": digest_bytes(text.encode("utf-8", "surrogateescape")),
            "name": name,
            "package": canonical_subset(package),
            "npmrc": _npmrc(request.source),
            "local": _local(request.source, text),
        }

    def resolve(self, request: BakeRequest, progress: Progress) -> Resolution | None:  # noqa: ARG002 nothing takes long
        lock = _lock(request.source)
        if lock is None:
            return None
        name, package, text = lock
        document = {"package": canonical_subset(package), "lock": text, "npmrc": _npmrc(request.source)}
        local = _local(request.source, text)
        return Resolution(name, canonical(document).decode(), digest_of(local) if local else "")

    def install(self, request: BakeRequest, resolution: Resolution, into: Path, progress: Progress) -> Installed:  # noqa: ARG002
        """Raises: BakeError `dependencies-failed` with npm's words."""
        document = json.loads(resolution.text)
        (into / "package.json").write_text(document["package"])
        (into / resolution.kind).write_text(document["lock"])
        if document["npmrc"]:
            (into / ".npmrc").write_text(document["npmrc"])
        for name in _local(request.source, document["lock"]):
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(request.source / name, into / name)
        _must(self._tools.run([*_CI, "--omit=dev"], cwd=into, env=_ENV), resolution.kind)
        items = tuple(sorted(_items(os.fsencode(into)), key=lambda item: item.path))
        native = any(item.path.endswith(b".node") for item in items)
        return Installed(items, _packages(json.loads(document["lock"]), into), native)

    def application(self, request: BakeRequest, dependencies: bool) -> Application:  # noqa: ARG002
        link = (Item(b"app/node_modules", link=b"../deps/node_modules"),) if dependencies else ()
        return Application(extra=link, hidden=(b"node_modules",))

    def container_env(self, request: BakeRequest, runtime: Runtime) -> Mapping[str, str]:  # noqa: ARG002
        return {"NODE_ENV": "production"}

    def build(self, request: BakeRequest, scratch: Path, progress: Progress) -> None:
        """Raises: BakeError `build-script-missing`, `dependencies-failed`, `build-failed`."""
        package = _package_json(scratch)
        scripts = package.get("scripts", {})
        if request.build not in scripts:
            raise BakeError(
                "build-script-missing",
                f"package.json has no script {request.build!r}; it has {', '.join(sorted(scripts)) or 'none'}",
                where="bake.build",
                remedy="correct `bake.build` in rebake.yaml, or add the script to package.json",
            )
        if any(package.get(kind) for kind in (*_NEEDED, "devDependencies")):
            progress("installing what the build needs")
            lock = next((name for name in _LOCKS if (scratch / name).is_file()), None)
            if lock is None:
                raise _no_lock(request.source)
            _must(self._tools.run([*_CI, "--include=dev"], cwd=scratch, env=_ENV), lock)
        done = self._tools.run(["npm", "run", "--loglevel=error", str(request.build)], cwd=scratch, env=_ENV)
        if done.status != 0:
            raise BakeError(
                "build-failed",
                f"the build script {request.build} ended with exit {done.status}",
                where=f"package.json: scripts.{request.build}",
                remedy=f"correct it so that `npm ci && npm run {request.build}` works in a fresh copy of this folder",
                evidence=done.tail(),
            )

    def _major(self, source: Path) -> str:
        """Node's major version; asked once for each program."""
        program = shutil.which("node") or "node"
        stat = Path(program).stat() if Path(program).exists() else None
        key = digest_of({"node": program, "mtime": stat.st_mtime_ns if stat else 0, "ino": stat.st_ino if stat else 0})
        if (known := self._memo.get("interpreters", key)) is not None:
            return str(known["major"])
        done = self._tools.run(["node", "--version"], cwd=source)
        major = done.stdout.strip().removeprefix("v").split(".")[0]
        self._memo.put("interpreters", key, {"major": major})
        return major


def canonical_subset(package: Mapping[str, Any]) -> str:
    """package.json without what does not decide the dependencies: editing a script reinstalls nothing, and the
    project's own install scripts, which need its source, do not run here."""
    return json.dumps({key: package[key] for key in _KEPT if key in package}, sort_keys=True, ensure_ascii=False)


def _package_json(source: Path) -> dict[str, Any]:
    path = source / "package.json"
    if not path.is_file():
        return {}
    try:
        package = json.loads(path.read_bytes())
    except ValueError as error:
        raise BakeError(
            "package-json", f"package.json is not valid JSON: {error}", where=str(path), remedy="correct the line named"
        ) from error
    return package if isinstance(package, dict) else {}


def _lock(source: Path) -> tuple[str, dict[str, Any], str] | None:
    """Name of the lock file, package.json, the lock's text; None when there is nothing to install."""
    package = _package_json(source)
    if not any(package.get(kind) for kind in _NEEDED):
        return None
    name = next((name for name in _LOCKS if (source / name).is_file()), None)
    if name is None:
        raise _no_lock(source)
    text = (source / name).read_text()
    if package.get("workspaces") or '"link": true' in text:
        raise BakeError(
            "local-packages",
            "npm workspaces and linked folders cannot be baked as dependencies",
            where=str(source / name),
            remedy="pack the local package (`npm pack`) and depend on the tarball, or publish it to a registry",
        )
    return name, package, text


def _no_lock(source: Path) -> BakeError:
    other = next((n for n in ("yarn.lock", "pnpm-lock.yaml", "bun.lock") if (source / n).is_file()), None)
    return BakeError(
        "no-lock-file",
        "package.json has dependencies, and there is no package-lock.json"
        + (f" ({other} is not read)" if other else ""),
        where=str(source / "package.json"),
        remedy="run `npm install --package-lock-only` and commit package-lock.json",
    )


def _npmrc(source: Path) -> str:
    path = source / ".npmrc"
    return path.read_text() if path.is_file() else ""


def _local(source: Path, lock: str) -> dict[str, str]:
    """Tarballs beside the source that the lock names, and their digests."""
    entries = json.loads(lock).get("packages", {}).values()
    names = {str(entry.get("resolved", "")) for entry in entries}
    files = sorted(name.removeprefix("file:") for name in names if name.startswith("file:"))
    return {name: digest_bytes((source / name).read_bytes()) for name in files if (source / name).is_file()}


def _items(top: bytes) -> Iterator[Item]:
    """What npm installed, without its own notes; its programs once more in deps/bin."""
    start = top + b"/node_modules"
    for folder, folders, names in os.walk(start):
        if folder == start:
            folders[:] = [f for f in folders if f != b".cache"]
            names = [n for n in names if n != b".package-lock.json"]
        links = [f for f in folders if os.path.islink(folder + b"/" + f)]  # noqa: PTH114 bytes, not a Path
        for name in [*names, *links]:
            source = folder + b"/" + name
            yield _item(b"deps" + source[len(top) :], source)
            if folder == start + b"/.bin":
                yield Item(b"deps/bin/" + name, link=b"../node_modules/.bin/" + name)


def _item(path: bytes, source: bytes) -> Item:
    if os.path.islink(source):  # noqa: PTH114 bytes, not a Path
        return Item(path, link=os.readlink(source))  # noqa: PTH115
    return Item(path, executable=bool(os.lstat(source).st_mode & 0o100), source=source)


def _packages(lock: Mapping[str, Any], top: Path) -> tuple[Package, ...]:
    """What of the lock was installed: what is for another platform, or for development, is not there."""
    found = {
        (str(entry.get("name") or key.rpartition("node_modules/")[2]), str(entry.get("version", "")))
        for key, entry in lock.get("packages", {}).items()
        if key and (top / key).is_dir()
    }
    return tuple(Package(name, version) for name, version in sorted(found))


def _must(done: ToolResult, lock: str) -> None:
    if done.status != 0:
        raise BakeError(
            "dependencies-failed",
            f"npm could not install the dependencies of {lock} (exit {done.status})",
            where=lock,
            remedy="make `npm ci` work in this folder (`npm install` renews an outdated lock), then bake again",
            evidence=done.tail(),
        )
