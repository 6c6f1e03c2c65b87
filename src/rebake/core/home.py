"""Where rebake keeps things on one machine: the layout of `$REBAKE_HOME`, in one place."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_SOCKET_LIMIT = 100  # sun_path holds 108 bytes; Envoy and the agent append short names


@dataclass(frozen=True, slots=True)
class Home:
    """The layout. Nothing here touches the disk; each room makes its own folder.

    Attributes:
        root: absolute folder, `$REBAKE_HOME` or the XDG data directory.
    """

    root: Path

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Home:
        """Source: XDG Base Directory Specification for the default."""
        if env.get("REBAKE_HOME"):
            return cls(Path(env["REBAKE_HOME"]).expanduser().absolute())
        data = env.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
        return cls(Path(data) / "rebake")

    @property
    def database(self) -> Path:
        return self.root / "state.db"

    @property
    def ledger_place(self) -> Path:
        """Names the database that keeps this home's ledger, where that is not `database`."""
        return self.root / "ledger-place"

    @property
    def place_id(self) -> Path:
        """The name of this home, by which others that share its database know it."""
        return self.root / "place-id"

    @property
    def store(self) -> Path:
        """The content-addressed store: an OCI image layout plus what is unpacked from it."""
        return self.root / "store"

    @property
    def instances(self) -> Path:
        """One folder per instance of the `local` platform."""
        return self.root / "instances"

    @property
    def containers(self) -> Path:
        """One folder per instance of the `docker` platform: what was asked of the engine, and what came of it."""
        return self.root / "containers"

    @property
    def clusters(self) -> Path:
        """What the `kubernetes` platform keeps here: where fleets are, and logs of instances that are gone."""
        return self.root / "clusters"

    @property
    def data(self) -> Path:
        """`$REBAKE_DATA` of every environment, `SERVICE/ENVIRONMENT` below it: what outlives releases."""
        return self.root / "data"

    @property
    def tag(self) -> str:
        """Names this home among others on the machine (control groups, containers, first port to try)."""
        return hashlib.sha256(os.fsencode(self.root)).hexdigest()[:12]

    @property
    def edge(self) -> Path:
        """Envoy's rendered files and logs."""
        return self.root / "edge"

    @property
    def secrets(self) -> Path:
        """Versions of secrets that kept revisions need, readable by the owner only."""
        return self.root / "secrets"

    @property
    def agent_log(self) -> Path:
        return self.root / "agent.log"

    @property
    def agent_lock(self) -> Path:
        """Held (flock) by the one agent of this home; holds its pid."""
        return self.root / "agent.lock"

    def socket(self, name: str) -> Path:
        """The path of a Unix socket. A home too deep for one gets a private folder beside the temporary files.

        Source: unix(7), sun_path is 108 bytes.
        """
        path = self.root / name
        if len(os.fsencode(path)) <= _SOCKET_LIMIT:
            return path
        tag = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:16]
        base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
        return Path(base) / f"rebake-{os.getuid()}-{tag}" / name

    @property
    def agent_socket(self) -> Path:
        return self.socket("agent.sock")
