"""`builder: image`: an existing image is the release, as it is; `bake.base` names it."""

from __future__ import annotations

from collections.abc import Sequence

from rebake.bake.bases import Base, Ground, base_of
from rebake.bake.ports import BakeRequest, Images


class ImageBuilder:
    """See `ports.WholeBuilder`."""

    name = "image"

    def image(self, request: BakeRequest, ground: Ground, images: Images) -> tuple[Base, Sequence[str]]:
        """Raises: as `bases.base_of`."""
        return base_of(ground, request.base, images)
