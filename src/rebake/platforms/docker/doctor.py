"""What the engine of this machine offers to the `docker` platform, for `rebake doctor`."""

from __future__ import annotations

from rebake.errors import PlatformError
from rebake.platforms.docker.client import DockerClient, EngineFacts
from rebake.platforms.findings import Finding

_LIMITS = ("memory", "cpu", "pids")


def findings(client: DockerClient, *, wanted: bool) -> list[Finding]:
    """What answers, and which parts of the design it cannot hold.

    Args:
        wanted: containers of this home exist, so an engine that does not answer is a problem.
    """
    try:
        facts = client.facts()
    except PlatformError as error:
        if wanted:
            return [Finding("docker", False, f"{client.socket}: {error.problem}", error.remedy)]
        return [Finding("docker", True, f"none usable ({error.problem}); needed for `platform: docker` only")]
    kind = "rootless, " if facts.rootless else ""
    detail = f"{facts.version} ({kind}API {facts.api}, {facts.driver}) at {client.socket}"
    return [Finding("docker", True, detail), *_missing(facts)]


def _missing(facts: EngineFacts) -> list[Finding]:
    found = []
    absent = [name for name in _LIMITS if name not in facts.limits]
    if absent:
        detail = f"the engine cannot limit {', '.join(absent)}"
        found.append(Finding("docker limits", False, detail, "run the engine where control groups are delegated to it"))
    if not facts.seccomp:
        detail = "the engine filters no system calls (seccomp)"
        found.append(Finding("docker seccomp", False, detail, "use the engine's default seccomp profile"))
    if not facts.init:
        detail = "the engine has no first process to put before a command: one that ignores SIGTERM drains in vain"
        found.append(Finding("docker init", False, detail, "install tini (Debian: apt-get install tini)"))
    if not facts.live_restore:
        detail = "containers end when the engine is restarted; rebake then replaces them"
        found.append(Finding("docker live-restore", True, detail))
    return found
