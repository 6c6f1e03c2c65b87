"""Where the `local` platform keeps its things below the home. Pure: nothing here touches the disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rebake.core.home import Home
from rebake.platforms.instances import InstanceFolder, folder_in


@dataclass(frozen=True, slots=True)
class ProcessFolder(InstanceFolder):
    """The folder of an instance that is a process."""

    @property
    def pid(self) -> Path:
        """Who it is: written by the starting process itself, before it becomes the released command."""
        return self.root / "pid.json"

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

    def instance(self, instance: str) -> ProcessFolder:
        """Raises: BrokenInvariant for an id that is not one plain file name."""
        return folder_in(ProcessFolder, self.home.instances, instance)

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
