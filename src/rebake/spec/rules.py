"""What must hold between values of the file. Each rule looks at the plain tree, so that it speaks even when other
parts of the file are wrong, and is silent about values that are wrong in themselves (the model names those).

To add a rule: write a generator of findings, name it in `RULES`, give its code an entry in docs/errors.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from rebake.core.units import FULL, format_share
from rebake.spec import kubernetes_rules, worker_rules
from rebake.spec.fields import VARIABLE, share_of, split_listen
from rebake.spec.metric_rules import metric_findings
from rebake.spec.model import BUILDERS, PLATFORMS
from rebake.spec.report import Finding, LineOf, did_you_mean, listed, nearest
from rebake.spec.tree import Path

Rule = Callable[[Any, LineOf], Iterator[Finding]]

RESERVED = {
    "PORT": "rebake tells every instance its own port",
    "HOST": "rebake tells every instance its own address",
    "HOME": "every instance has its own scratch directory there",
    "TMPDIR": "every instance has its own scratch directory there",
    "PATH": "rebake puts the release's own programs on it; write a program's full path in command instead",
}
"""Environment variables that rebake sets itself, with the reason. So are all that start with REBAKE_."""

EXPANSION = re.compile(r"\$(?:\$|([A-Za-z_][A-Za-z0-9_]*)|\{([^}]*)\})")
"""`$NAME` or `${NAME}` in a command; `$$` is a dollar sign."""


def get(data: Any, *path: str) -> Any:
    """The value below these keys; None where there is none."""
    for key in path:
        data = data.get(key) if isinstance(data, dict) else None
    return data


def mapping(data: Any, *path: str) -> dict[str, Any]:
    """The mapping below these keys; empty where there is none."""
    value = get(data, *path)
    return value if isinstance(value, dict) else {}


def items(data: Any, *path: str) -> list[Any]:
    """The list below these keys; empty where there is none."""
    value = get(data, *path)
    return value if isinstance(value, list) else []


# --- bake, run, checks -----------------------------------------------------------------------------------------------


_BUILDER_OF = {"extras": "python", "build": "node", "dockerfile": "dockerfile"}
"""Keys of bake that only one builder knows."""
_WITH_COMMAND = ("static", "dockerfile", "image")
"""Builders that know what to run."""


def builder_keys(data: Any, _: LineOf) -> Iterator[Finding]:
    bake = mapping(data, "bake")
    builder = bake.get("builder")
    if builder not in BUILDERS:
        return
    for key, only in _BUILDER_OF.items():
        if key in bake and builder != only:
            problem = f"expected {key} only with builder {only}, found it with {builder}"
            yield Finding("key-does-nothing", ("bake", key), problem, "remove the line", True)
    if builder == "dockerfile" and "base" in bake:
        problem = "expected no base with builder dockerfile, which has its own in FROM, found one"
        yield Finding("key-does-nothing", ("bake", "base"), problem, "remove the line", True)
    if builder == "image":
        for key in ("source", "exclude"):
            if key in bake:
                problem = f"expected no {key} with builder image, which takes the image as it is, found one"
                yield Finding("key-does-nothing", ("bake", key), problem, "remove the line", True)
        if bake.get("base", "host") in ("host", "scratch"):
            problem = f"expected an image under base with builder image, found {bake.get('base', 'none')}"
            yield Finding("image-missing", ("bake", "base"), problem, "write base: registry/name:tag")
    run = get(data, "run") or {}
    written = isinstance(run, dict) and any(nearest(str(key), ["command"]) for key in run)
    if builder not in _WITH_COMMAND and not written and isinstance(run, dict):
        problem = "expected the key command, which has no default, found no such key"
        yield Finding("missing-key", ("run", "command"), problem, "write command: [PROGRAM, ARGUMENT, …]")


def command_variables(data: Any, _: LineOf) -> Iterator[Finding]:
    """Every `$NAME` in the command has a value in every environment."""
    everywhere = {"PORT", "HOST", "TMPDIR", "REBAKE_DATA", *mapping(data, "run", "env")}
    everywhere |= {"REBAKE_SLOT"} if get(data, "run", "kind") == "job" else set()
    environments = mapping(data, "environments")
    commands: tuple[Path, ...] = (("run", "command"), ("run", "health", "command"))
    words = [((*path, n), word) for path in commands for n, word in enumerate(items(data, *map(str, path)))]
    for place, word in words:
        for match in EXPANSION.finditer(word if isinstance(word, str) else ""):
            name = match[1] or match[2]
            if name is None or name in everywhere:
                continue
            without = [key for key in environments if name not in mapping(environments, key, "env")]
            if without or not environments:
                yield _unknown_variable(place, name, everywhere, environments, without)


def _unknown_variable(
    path: Path, name: str, known: set[str], environments: dict[str, Any], without: list[str]
) -> Finding:
    shown = f"${name}" if VARIABLE.fullmatch(name) else f"${{{name}}}"
    if any(name in mapping(environments, key, "secrets") for key in environments):
        problem = f"expected no secret in a command, where every user of the machine could read it, found {shown}"
        return Finding("secret-in-command", path, problem, f"let the program read {name} from its environment")
    if without and len(without) < len(environments):
        problem = f"expected {shown} to have a value in every environment, found none in {listed(without)}"
        return Finding("unknown-variable", path, problem, f"add {name} to run.env, or to env of {listed(without)}")
    problem = f"expected $PORT, $HOST or a name under run.env, found {shown}"
    remedy = did_you_mean(name, known) or f"add {name} to run.env, or write $${name} for the text {shown}"
    return Finding("unknown-variable", path, problem, remedy)


def check_kinds(data: Any, _: LineOf) -> Iterator[Finding]:
    for index, check in enumerate(items(data, "checks")):
        if not isinstance(check, dict):
            continue
        kinds = [kind for kind in ("http", "command") if kind in check]
        if len(kinds) != 1:
            problem = f"expected one of http and command, found {'both' if kinds else 'neither'}"
            yield Finding("check-kind", ("checks", index), problem)
        elif kinds == ["http"] and "timeout" in check:
            problem = "expected timeout inside http, found it beside http"
            remedy = "write http: {…, timeout: 5s}"
            yield Finding("key-does-nothing", ("checks", index, "timeout"), problem, remedy, True)


def check_names(data: Any, line_of: LineOf) -> Iterator[Finding]:
    seen: dict[str, int] = {}
    for index, check in enumerate(items(data, "checks")):
        name = get(check, "name")
        if isinstance(name, str) and name in seen:
            first = line_of(("checks", seen[name], "name"))
            problem = f"expected a name of its own, found {name}, which the check on line {first} has"
            yield Finding("duplicate-check", ("checks", index, "name"), problem)
        elif isinstance(name, str):
            seen[name] = index
    for environment in mapping(data, "environments"):
        for index, name in enumerate(items(data, "environments", environment, "checks")):
            if isinstance(name, str) and name not in seen:
                problem = f"expected the name of a check ({listed(seen) if seen else 'there is none'}), found {name}"
                yield Finding(
                    "unknown-check", ("environments", environment, "checks", index), problem, did_you_mean(name, seen)
                )


# --- environments ----------------------------------------------------------------------------------------------------


def variables(data: Any, _: LineOf) -> Iterator[Finding]:
    """No reserved names; no name that is both a variable and a secret."""
    shared = mapping(data, "run", "env")
    yield from _reserved(shared, ("run", "env"))
    for name in mapping(data, "environments"):
        path: Path = ("environments", name)
        own, secrets = (mapping(data, "environments", name, key) for key in ("env", "secrets"))
        yield from _reserved(own, (*path, "env"))
        yield from _reserved(secrets, (*path, "secrets"))
        for secret in secrets:
            other = "env" if secret in own else "run.env" if secret in shared else None
            if other:
                problem = f"expected a name that {other} does not have, found {secret} in both"
                remedy = "keep one of the two"
                yield Finding("secret-collides", (*path, "secrets", secret), problem, remedy, True)


def _reserved(names: dict[str, Any], path: Path) -> Iterator[Finding]:
    for name in names:
        reason = "it is rebake's own" if name.startswith("REBAKE_") else RESERVED.get(name)
        if reason:
            problem = f"expected a name that is free, found {name}: {reason}"
            yield Finding("reserved-variable", (*path, name), problem, "remove the line", True)


def secret_sources(data: Any, _: LineOf) -> Iterator[Finding]:
    for name in mapping(data, "environments"):
        for secret, source in mapping(data, "environments", name, "secrets").items():
            if isinstance(source, dict) and len({"file", "env"} & set(source)) != 1:
                found = "both" if "file" in source else "neither"
                path = ("environments", name, "secrets", secret)
                problem = f"expected one of file and env, found {found}"
                yield Finding("secret-source", path, problem, "write {file: /path} or {env: NAME}")


def listen_addresses(data: Any, line_of: LineOf) -> Iterator[Finding]:
    """Each environment has its own address; the address of all interfaces takes the port on each of them."""
    seen: list[tuple[str, str, int]] = []
    for name in mapping(data, "environments"):
        listen = get(data, "environments", name, "listen")
        try:
            host, port = split_listen("" if listen is None else str(listen).strip())
        except ValueError:
            continue
        for other, other_host, other_port in seen:
            everywhere = {"0.0.0.0", "::"} & {host, other_host}
            if port == other_port and (host == other_host or everywhere):
                line = line_of(("environments", other, "listen"))
                problem = f"expected an address of its own, found {listen}, which {other} (line {line}) takes too"
                yield Finding("listen-taken", ("environments", name, "listen"), problem, "choose another port")
                break
        seen.append((name, host, port))


def after_chain(data: Any, _: LineOf) -> Iterator[Finding]:
    """`after` names another environment, and no chain comes back to where it began."""
    environments = mapping(data, "environments")
    after = {name: get(environments, name, "after") for name in environments}
    reported: set[str] = set()
    for name, target in after.items():
        path = ("environments", name, "after")
        if not isinstance(target, str):
            continue
        if target not in after:
            others = [other for other in after if other != name]
            known = f"({', '.join(others)})" if others else "(there is none)"
            problem = f"expected the name of another environment {known}, found {target[:70]}"
            yield Finding("after-unknown", path, problem, did_you_mean(target, others))
        elif name not in reported and (circle := _circle(after, name)):
            reported.update(circle)
            problem = f"expected a chain with a beginning, found a circle: {' after '.join(circle)}"
            yield Finding("after-circle", path, problem, "remove one of these after lines")


def _circle(after: dict[str, Any], start: str) -> list[str]:
    """The environments from start back to start, or nothing."""
    chain = [start]
    while isinstance(target := after.get(chain[-1]), str) and target in after:
        chain.append(target)
        if target == start:
            return chain
        if target in chain[:-1]:
            return []
    return []


# --- strategies ------------------------------------------------------------------------------------------------------


def canary_settings(data: Any, _: LineOf) -> Iterator[Finding]:
    for name in mapping(data, "environments"):
        path: Path = ("environments", name, "strategy", "canary")
        settings = mapping(data, "environments", name, "strategy", "canary")
        if "profile" in settings and "steps" in settings:
            problem = "expected a profile or fixed steps, found both"
            yield Finding("canary-two-ways", (*path, "steps"), problem, "remove one of the two", True)
        elif "hold" in settings and "steps" not in settings:
            problem = "expected hold only beside steps, found it without: the profile holds as long as evidence needs"
            yield Finding("key-does-nothing", (*path, "hold"), problem, "remove the line, or add steps", True)
        yield from _steps(items(settings, "steps"), (*path, "steps"))


def _steps(steps: list[Any], path: Path) -> Iterator[Finding]:
    last, spelled = 0, ""
    for index, step in enumerate(steps):
        points = share_of(step)
        if points is None:
            continue
        if points == FULL:
            problem = "expected shares below 100%, found 100%: the last step, to the whole traffic, is implied"
            yield Finding("step-complete", (*path, index), problem, "remove 100%")
        elif points <= last:
            problem = f"expected rising shares, found {step} after {spelled}"
            yield Finding("steps-not-rising", (*path, index), problem)
        last, spelled = max(last, points), step


def hold_back(data: Any, _: LineOf) -> Iterator[Finding]:
    """Only canary and linear hold back, and never so much that the candidate's share would fall after its last step."""
    for name, environment in mapping(data, "environments").items():
        if "hold_back" not in (environment if isinstance(environment, dict) else {}):
            continue
        path: Path = ("environments", name, "hold_back")
        strategy = environment.get("strategy", "blue-green")
        kind = next(iter(strategy), None) if isinstance(strategy, dict) else strategy
        if kind in ("all-at-once", "blue-green", "shadow"):
            problem = f"expected hold_back only with canary or linear, found it with {kind}"
            yield Finding("hold-back-not-here", path, problem, "remove the line", True)
            continue
        back = share_of(environment["hold_back"])
        top = max((share_of(step) or 0 for step in items(strategy, "canary", "steps")), default=0)
        if back is not None and top < FULL and back > FULL - top:
            most = format_share(FULL - top)
            problem = f"expected at most {most}, which the last step of {format_share(top)} leaves, "
            yield Finding("hold-back-too-large", path, problem + f"found {environment['hold_back']}")


def platform_blocks(data: Any, _: LineOf) -> Iterator[Finding]:
    """A block of settings belongs to the platform of its name."""
    for name, environment in mapping(data, "environments").items():
        platform = get(environment, "platform")
        for other in PLATFORMS:
            if platform in PLATFORMS and other != platform and get(environment, other) is not None:
                problem = f"expected settings of {platform}, on which {name} runs, found settings of {other}"
                yield Finding("platform-block", ("environments", name, other), problem, "remove the block", True)


def shields(data: Any, _: LineOf) -> Iterator[Finding]:
    """Only where both fleets have users there is one that can answer for the other."""
    for name, environment in mapping(data, "environments").items():
        strategy = get(environment, "strategy") or "blue-green"
        kind = next(iter(strategy), None) if isinstance(strategy, dict) else strategy
        if get(environment, "shield") is not None and kind in ("all-at-once", "blue-green", "shadow"):
            problem = f"expected shield only with canary or linear, found it with {kind}"
            yield Finding("key-does-nothing", ("environments", name, "shield"), problem, "remove the line", True)


def undecided_limits(data: Any, _: LineOf) -> Iterator[Finding]:
    for name, environment in mapping(data, "environments").items():
        choice = get(environment, "undecided")
        if get(environment, "undecided_limit") is not None and choice in ("promote", "roll-back"):
            problem = f"expected undecided_limit only with undecided: hold-on, found it with {choice}"
            path = ("environments", name, "undecided_limit")
            yield Finding("key-does-nothing", path, problem, "remove the line", True)


def windows(data: Any, _: LineOf) -> Iterator[Finding]:
    """A window without a day would never open."""
    for name, environment in mapping(data, "environments").items():
        several = isinstance(get(environment, "window"), list)
        found = items(environment, "window") if several else [mapping(environment, "window")]
        for index, window in enumerate(found):
            if get(window, "days") == []:
                path: Path = ("environments", name, "window", *((index,) if several else ()), "days")
                yield Finding("window-without-days", path, "expected at least one day, found none")


def freezes(data: Any, _: LineOf) -> Iterator[Finding]:
    """A freeze ends after it begins."""
    for name, environment in mapping(data, "environments").items():
        for index, freeze in enumerate(items(environment, "freeze")):
            begins, ends = get(freeze, "from"), get(freeze, "to")
            dates = all(isinstance(text, str) and text.strip()[:1].isdigit() for text in (begins, ends))
            if dates and _later(begins, ends):
                problem = f"expected a freeze that ends after it begins ({begins}), found {ends}"
                yield Finding("freeze-ends-first", ("environments", name, "freeze", index, "to"), problem)


def _later(begins: str, ends: str) -> bool:
    first, last = begins.strip().replace("T", " "), ends.strip().replace("T", " ")
    return first[: len(last)] > last or (first == last and len(last) > len("2026-12-24"))


def judge_metrics(data: Any, _: LineOf) -> Iterator[Finding]:
    for name in mapping(data, "environments"):
        path: Path = ("environments", name, "judge", "metrics")
        for metric, settings in mapping(data, *map(str, path)).items():
            if isinstance(settings, dict):
                yield from metric_findings(settings, (*path, metric))


def kinds(data: Any, _: LineOf) -> Iterator[Finding]:
    """What needs a route, and what must not have one."""
    yield from worker_rules.kinds(data)


def clusters(data: Any, line_of: LineOf) -> Iterator[Finding]:
    """What a cluster needs, and what its route cannot do."""
    yield from kubernetes_rules.findings(data)
    yield from kubernetes_rules.shared_names(data, line_of)


RULES = (
    kinds,
    clusters,
    builder_keys,
    command_variables,
    check_kinds,
    check_names,
    variables,
    secret_sources,
    listen_addresses,
    after_chain,
    canary_settings,
    hold_back,
    shields,
    undecided_limits,
    windows,
    freezes,
    platform_blocks,
    judge_metrics,
)
