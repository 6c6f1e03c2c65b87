"""What this platform asks of other rooms, by shape only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from rebake.platforms.ports import Progress


@dataclass(frozen=True, slots=True)
class Published:
    """A release where nodes can pull it.

    Attributes:
        reference: by digest.
        user: whom its image wants to run as; empty for root.
    """

    reference: str
    user: str = ""


class Publisher(Protocol):
    """Puts releases into registries."""

    def publish(self, digest: str, repository: str, progress: Progress, /) -> Published:
        """See that a release is there, sending what is missing. Cheap when it is.

        Raises: PlatformError of the registry; Permanent `release-damaged`.
        """
        ...
