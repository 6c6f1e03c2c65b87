"""Where the `local` platform keeps its things below the home. Pure: nothing here touches the disk."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from rebake.core.home import Home
from rebake.errors import BrokenInvariant

_SAFE_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@+-]{0,199}")


@dataclass(frozen=True, slots=True)
class InstanceFolder:
    """One instance's folder. Each file is written once, atomically, and read by whoever adopts the instance.

    Attributes:
        root: the folder, named after the instance.
    """

    root: Path

    @property
    def id(self) -> str:
        return self.root.name

    @property
    def spec(self) -> Path:
        """The intent: written before anything is started."""
        return self.root / "spec.json"

    @property
    def pid(self) -> Path:
        """Who it is: written by the starting process itself, before it becomes the released command."""
        return self.root / "pid.json"

    @property
    def settled(self) -> Path:
        """What the process looked like when it was healthy for the first time; what drift is compared with."""
        return self.root / "settled.json"

    @property
    def stopping(self) -> Path:
        """When it was told to finish, and until when it may take."""
        return self.root / "stopping.json"

    @property
    def exit(self) -> Path:
        """How it ended."""
        return self.root / "exit.json"

    @property
    def scratch(self) -> Path:
        """TMPDIR and HOME of the instance."""
        return self.root / "scratch"

    @property
    def log(self) -> Path:
        return self.root / "log"


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders of this platform."""

    home: Home

    def instance(self, instance_id: str) -> InstanceFolder:
        """Raises: BrokenInvariant for an id that is not one plain file name."""
        if _SAFE_ID.fullmatch(instance_id) is None:
            raise BrokenInvariant(f"an instance id is a plain file name, found {instance_id!r}")
        return InstanceFolder(self.home.instances / instance_id)

    @property
    def kept_logs(self) -> Path:
        """Logs of retired instances."""
        return self.home.instances / ".logs"

    @property
    def layers(self) -> Path:
        """Unpacked dependency layers, one folder for each layer digest and generation."""
        return self.home.store / "unpacked" / "layers"

    @property
    def releases(self) -> Path:
        """Unpacked application layers, one folder for each release digest and generation."""
        return self.home.store / "unpacked" / "releases"

    @property
    def data_root(self) -> Path:
        return self.home.data

    def data(self, service: str, environment: str) -> Path:
        """`$REBAKE_DATA`: what outlives releases; shared by the fleets of one environment."""
        return self.data_root / service / environment

    @property
    def tag(self) -> str:
        """Names this home among others on the machine (control groups, first port to try)."""
        return self.home.tag
