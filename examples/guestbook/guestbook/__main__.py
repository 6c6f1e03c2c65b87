"""Run one instance: `PORT=8000 python -m guestbook`. Ends at SIGTERM, after the requests under way."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from pathlib import Path

from guestbook.handlers import Instance
from guestbook.server import Server
from guestbook.store import Store


def main() -> None:
    told_to_stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: told_to_stop.set())

    data = Path(os.environ.get("REBAKE_DATA") or tempfile.gettempdir())
    instance = Instance(
        store=Store(data / "guestbook.db"),
        greeting=os.environ.get("GREETING", "hello"),
        name=os.environ.get("REBAKE_INSTANCE", f"process {os.getpid()}"),
        revision=os.environ.get("REBAKE_REVISION", "not deployed"),
    )
    host = os.environ.get("HOST", "127.0.0.1")
    server = Server((host, int(os.environ.get("PORT", "8000"))), instance)
    server.start()
    print(f"guestbook: serving on http://{host}:{server.server_port}", flush=True)
    told_to_stop.wait()
    server.stop()
    print("guestbook: every request is answered, goodbye", flush=True)


if __name__ == "__main__":
    main()
