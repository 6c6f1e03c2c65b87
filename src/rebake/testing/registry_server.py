"""A real registry for tests and benchmarks: Debian's `docker-registry`, started and ended by them, on its own port.

With `users` it asks for a password (basic); with a `TokenRealm` for a token; with `Certificate` it speaks TLS. Needs no
root. Certificates and keys are made with `openssl`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from rebake.testing.children import end_with_parent

INSTALL = "no registry can be started here (on Debian: apt-get install docker-registry)"
USER, PASSWORD = "baker", "baker"
_HASHED = "baker:$2y$05$abcdefghijklmnopqrstuuv39saATyR3WYDzv/2oe57thB/hP5.gq\n"
"""The password, by bcrypt: all that the registry takes."""
START_SECONDS = 30.0


class NoRegistry(Exception):
    """No registry can be had on this machine; the sentence says what to install."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A self-made certificate for 127.0.0.1 and localhost, which is its own authority."""

    file: Path
    key: Path

    @classmethod
    def make(cls, folder: Path) -> Certificate:
        """Raises: NoRegistry without openssl."""
        file, key = folder / "ca.crt", folder / "ca.key"
        words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=rebake test"]
        names = ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
        _openssl(*words, *names, "-keyout", str(key), "-out", str(file))
        return cls(file, key)


def _openssl(*words: str, data: bytes = b"") -> bytes:
    program = shutil.which("openssl")
    if program is None:
        raise NoRegistry("no certificate can be made here (on Debian: apt-get install openssl)")
    return subprocess.run([program, *words], input=data, capture_output=True, check=True).stdout


class TokenRealm:
    """Gives tokens that a registry accepts, to one user, and to whoever shows its identity token.

    Attributes:
        asked: the scopes that tokens were asked for, in order.
        grants: what an allowed user may do; everything that is asked for unless set.
    """

    IDENTITY = "an-identity-token"

    def __init__(self, folder: Path) -> None:
        self.certificate = Certificate.make(folder)
        self.asked: list[str] = []
        self.grants: set[str] | None = None
        realm = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                allowed = self.headers.get("Authorization") == "Basic " + _b64(f"{USER}:{PASSWORD}".encode(), std=True)
                realm._answer(self, parse_qs(urlsplit(self.path).query), allowed)

            def do_POST(self) -> None:
                form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                realm._answer(self, form, form.get("refresh_token") == [realm.IDENTITY])

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/token"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler, asked: Mapping[str, list[str]], allowed: bool) -> None:
        scopes = [one for text in asked.get("scope", []) for one in text.split()]
        self.asked += scopes
        body = json.dumps({"token": self._token(scopes)} if allowed else {"details": "no"}).encode()
        handler.send_response(200 if allowed else 401)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def _token(self, scopes: list[str]) -> str:
        """Source: distribution, docs/spec/auth/jwt."""
        access = []
        for one in scopes:
            kind, name, actions = one.split(":")
            allowed = [a for a in actions.split(",") if self.grants is None or a in self.grants]
            access.append({"type": kind, "name": name, "actions": allowed})
        now = int(time.time())
        claims = {"iss": "rebake", "sub": USER, "aud": "rebake", "exp": now + 300, "nbf": now - 10, "iat": now}
        pem = self.certificate.file.read_text()
        der = "".join(line for line in pem.splitlines() if "CERTIFICATE" not in line)
        head = {"typ": "JWT", "alg": "RS256", "x5c": [der]}
        text = ".".join(_b64(json.dumps(part).encode()) for part in (head, {**claims, "jti": "1", "access": access}))
        signed = _openssl("dgst", "-sha256", "-sign", str(self.certificate.key), data=text.encode())
        return f"{text}.{_b64(signed)}"


def _b64(data: bytes, *, std: bool = False) -> str:
    return base64.b64encode(data).decode() if std else base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class RegistryServer:
    """One registry of our own. Used as a context: what it kept is gone afterwards.

    Args:
        users: ask for the password.
        realm: ask for a token of this realm.
        certificate: speak TLS with it.
    Attributes:
        host: `127.0.0.1:PORT`.
    """

    def __init__(
        self, *, users: bool = False, realm: TokenRealm | None = None, certificate: Certificate | None = None
    ) -> None:
        program = shutil.which("docker-registry") or shutil.which("registry")
        if program is None:
            raise NoRegistry(INSTALL)
        self.folder = Path(tempfile.mkdtemp(prefix="rebake-reg-"))
        self.host = f"127.0.0.1:{_free_port()}"
        self.certificate = certificate
        config = self._config(users=users, realm=realm)
        (self.folder / "config.json").write_text(json.dumps(config))
        with (self.folder / "log").open("ab") as log:
            command = [program, "serve", str(self.folder / "config.json")]
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                preexec_fn=end_with_parent,  # noqa: PLW1509 (one call into the kernel, nothing that locks)
            )
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> RegistryServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def blobs(self) -> Path:
        """Where it keeps what it was sent: `sha256/ab/abcd…/data` below."""
        return self.folder / "data" / "docker" / "registry" / "v2" / "blobs"

    def docker_config(self, folder: Path, **entry: str) -> Mapping[str, str]:
        """An environment in which Docker's configuration holds this entry for the registry, by default the password."""
        folder.mkdir(parents=True, exist_ok=True)
        known = entry or {"auth": _b64(f"{USER}:{PASSWORD}".encode(), std=True)}
        (folder / "config.json").write_text(json.dumps({"auths": {self.host: known}}))
        return {"DOCKER_CONFIG": str(folder), "HOME": str(folder), "PATH": str(folder)}

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _config(self, *, users: bool, realm: TokenRealm | None) -> dict[str, Any]:
        """JSON is YAML, which it reads. Source: distribution, configuration.md."""
        http: dict[str, Any] = {"addr": self.host, "secret": "shared"}
        if self.certificate is not None:
            http["tls"] = {"certificate": str(self.certificate.file), "key": str(self.certificate.key)}
        storage = {"filesystem": {"rootdirectory": str(self.folder / "data")}, "delete": {"enabled": True}}
        config: dict[str, Any] = {"version": 0.1, "log": {"level": "warn"}, "storage": storage, "http": http}
        if users:
            (self.folder / "htpasswd").write_text(_HASHED)
            config["auth"] = {"htpasswd": {"realm": "basic", "path": str(self.folder / "htpasswd")}}
        if realm is not None:
            bundle = str(realm.certificate.file)
            token = {"realm": realm.url, "service": "rebake", "issuer": "rebake", "rootcertbundle": bundle}
            config["auth"] = {"token": token}
        return config

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        context = ssl._create_unverified_context() if self.certificate else None
        url = f"{'https' if self.certificate else 'http'}://{self.host}/v2/"
        while True:
            with contextlib.suppress(OSError):
                try:
                    urllib.request.urlopen(url, timeout=5, context=context).close()
                    return
                except urllib.error.HTTPError:
                    return  # it wants to know who asks
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise NoRegistry(f"the registry does not start here: {self.log()[-300:]}")
            time.sleep(0.02)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
