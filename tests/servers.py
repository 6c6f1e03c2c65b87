"""The little server that tests of platforms release: it says its marker, and its health by a status."""

from __future__ import annotations

SERVER = """
import os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        status = {status} if self.path == "/healthz" else 200
        body = {marker!r}.encode()
        if self.path.startswith("/env/"):
            body = os.environ.get(self.path[5:], "").encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

server = HTTPServer((os.environ["HOST"], int(sys.argv[1])), Handler)
print("serving", {marker!r}, flush=True)
server.serve_forever()
"""
COMMAND = ("python", "server.py", "$PORT")
