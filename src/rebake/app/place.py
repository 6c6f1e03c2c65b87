"""Who this home is, for others that share its database."""

from __future__ import annotations

import secrets
import socket

from rebake.core.atomic import write_atomic
from rebake.core.home import Home
from rebake.rollout.world import Place


def place_of(home: Home) -> Place:
    """The name of this home, made at its first start. A restored or moved home keeps it, under any host name."""
    if not home.place_id.exists():
        write_atomic(home.place_id, secrets.token_hex(16).encode() + b"\n", mode=0o600, durable=True)
    return Place(home.place_id.read_text(encoding="ascii").strip(), socket.gethostname(), str(home.root))
