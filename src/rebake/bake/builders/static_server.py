#!/usr/bin/env python
"""Serves the files of a release, which never change: a program of its own, put into releases of `builder: static`.

GET and HEAD; `index.html` for a folder, `404.html` for what is not there; no listing of folders, nothing outside the
release's root, nothing hidden. `/healthz` answers 200, unless the release has such a file. Uses nothing but Python 3.8.

Source: RFC 9110; a file's time in a release is made from its content, so that time and size are its version.
"""

from __future__ import annotations

import mimetypes
import os
import shutil
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

ROOT = Path.cwd().resolve()
HEALTH = "/healthz"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "rebake-static"
    sys_version = ""
    wbufsize = -1
    timeout = 60

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        found = self._file(path)
        if found is None and path == HEALTH:
            self._send(200, b"ok\n", "text/plain")
        elif found is None:
            self._missing()
        elif found.is_dir():
            self._moved(path + "/")
        else:
            self._serve(found, 200)

    do_HEAD = do_GET

    def _file(self, path: str) -> Path | None:
        """The file of a path; a folder that is asked for without its slash; None for nothing, or nothing to show."""
        if "\0" in path or any(part.startswith(".") for part in path.split("/")):
            return None
        file = Path(os.path.normpath(str(ROOT) + "/" + path))
        if path.endswith("/"):
            file /= "index.html"
        resolved = file.resolve()
        if resolved != ROOT and ROOT not in resolved.parents:
            return None
        if resolved.is_dir():
            return resolved if (resolved / "index.html").is_file() else None
        return resolved if resolved.is_file() else None

    def _serve(self, file: Path, status: int) -> None:
        about = file.stat()
        etag = f'"{about.st_mtime_ns:x}-{about.st_size:x}"'
        if status == 200 and etag in self.headers.get("If-None-Match", ""):
            self.send_response(304)
            self.send_header("ETag", etag)
            self.end_headers()
            return
        kind, encoding = mimetypes.guess_type(file.name)
        text = kind is not None and (kind.startswith("text/") or kind.endswith(("javascript", "json", "+xml")))
        self.send_response(status)
        self.send_header("Content-Type", (kind or "application/octet-stream") + ("; charset=utf-8" if text else ""))
        if encoding:
            self.send_header("Content-Encoding", encoding)
        self.send_header("Content-Length", str(about.st_size))
        self.send_header("ETag", etag)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if self.command == "GET":
            with file.open("rb") as source:
                shutil.copyfileobj(source, self.wfile, 1 << 18)

    def _missing(self) -> None:
        own = ROOT / "404.html"
        if own.is_file():
            self._serve(own, 404)
        else:
            self._send(404, b"not found\n", "text/plain")

    def _moved(self, path: str) -> None:
        self.send_response(308)
        self.send_header("Location", quote("/" + path.lstrip("/")))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """The edge keeps the records of requests."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def main() -> None:
    server = Server((os.environ["HOST"], int(os.environ["PORT"])), Handler)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print("serving", ROOT, flush=True)
    server.serve_forever(poll_interval=0.1)


if __name__ == "__main__":
    main()
