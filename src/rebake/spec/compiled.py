"""The user's file, read once: everything the commands need from it as plain JSON, kept by the file's own digest.

Reading and checking a file loads YAML and pydantic, 0.3 s in all. A file that did not change is not checked twice:
what it came to is kept under a name made of its bytes, its folder and the versions that read it, so a kept answer can
only be the right one. Losing it costs time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rebake import __version__
from rebake.core.atomic import write_atomic

_RULES = (
    *("model.py", "fields.py", "plan.py", "rules.py", "load.py"),
    *("kubernetes_rules.py", "metric_rules.py", "pod_share_rules.py", "worker_rules.py"),
)
KEPT = 64
"""Files remembered at most; the oldest go first."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """A file without mistakes.

    Attributes:
        bake: `builder`, `source`, `exclude`, `base`, `build`, `dockerfile`, `repository`, as the model has
            them.
        run: `codec.dump` of the release's run contract.
        environments: by name, `plan` (`codec.dump`), `env` and `secrets`, the parts of `POST /v1/rollouts`.
    """

    service: str
    bake: dict[str, Any]
    run: dict[str, Any]
    environments: dict[str, dict[str, Any]]


def compile_file(file: Path, cache: Path) -> Compiled:
    """Read a file, or find what it came to before.

    Args:
        cache: folder for what is kept; made when needed, and done without when it cannot be.
    Raises: UsageError and SpecError, as `spec.load.load`.
    """
    file = file.absolute()
    kept = cache / f"{_name(file)}.json"
    with contextlib.suppress(OSError, ValueError, TypeError):
        return Compiled(**json.loads(kept.read_bytes()))
    compiled = _compile(file)
    with contextlib.suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
        write_atomic(kept, json.dumps(asdict(compiled)).encode())
        for old in sorted(cache.glob("*.json"), key=lambda path: path.stat().st_mtime)[:-KEPT]:
            old.unlink(missing_ok=True)
    return compiled


def _name(file: Path) -> str:
    """Everything the answer depends on. An unreadable file has a name too; `load` then says what is wrong."""
    try:
        text = file.read_bytes()
    except OSError:
        text = b""
    versions = f"{__version__} {sys.version} {_own_bytes()} {file.parent}"
    return hashlib.sha256(versions.encode() + b"\0" + text).hexdigest()


def _own_bytes() -> str:
    """When this installation's rules were last changed, so that a checkout under work never trusts an older answer."""
    here = Path(__file__).parent
    return " ".join(str((here / name).stat().st_mtime_ns) for name in _RULES)


def _compile(file: Path) -> Compiled:
    from rebake.core.codec import dump
    from rebake.spec.load import load
    from rebake.spec.plan import plan_for, run_contract, secret_sources, settings_env

    spec = load(file)
    return Compiled(
        service=spec.service,
        bake={
            "builder": spec.bake.builder,
            "source": spec.bake.source,
            "exclude": list(spec.bake.exclude),
            "base": spec.bake.base,
            "extras": list(spec.bake.extras),
            "build": spec.bake.build,
            "dockerfile": spec.bake.dockerfile,
            "repository": spec.bake.repository,
        },
        run=dump(run_contract(spec)),
        environments={
            name: {
                "plan": dump(plan_for(spec, name, file.parent)),
                "env": settings_env(spec, name),
                "secrets": secret_sources(spec, name),
            }
            for name in spec.environments
        },
    )
