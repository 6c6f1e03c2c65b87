"""Registries of images, by the OCI distribution protocol: releases are pushed and pulled, bases pulled."""

import sys

# httpx would load its own command line, with click, rich and pygments, which takes longer than all the rest of it. It
# does without where that cannot be imported.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
