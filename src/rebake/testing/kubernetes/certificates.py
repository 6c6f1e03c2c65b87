"""Certificates for an emulated API server and its clients, made with `openssl`."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path


class NoOpenssl(Exception):
    """No certificate can be made on this machine; the sentence says what to install."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate and its key."""

    file: Path
    key: Path

    @classmethod
    def authority(cls, folder: Path) -> Identity:
        """A certificate for 127.0.0.1 and localhost that is its own authority and can sign clients'."""
        made = cls(folder / "ca.crt", folder / "ca.key")
        words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=emulated cluster"]
        names = ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
        _openssl(*words, *names, "-keyout", str(made.key), "-out", str(made.file))
        return made

    def client(self, folder: Path, name: str, *groups: str) -> Identity:
        """A client's, signed by this one: CN is the user, O its groups.

        Source: Kubernetes, "X509 client certificates".
        """
        made, wish = Identity(folder / f"{name}.crt", folder / f"{name}.key"), folder / f"{name}.csr"
        subject = "".join(f"/O={one}" for one in groups) + f"/CN={name}"
        _openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", subject, "-keyout", str(made.key), "-out", str(wish))
        signer = ["-CA", str(self.file), "-CAkey", str(self.key), "-CAcreateserial", "-days", "2"]
        _openssl("x509", "-req", "-in", str(wish), *signer, "-out", str(made.file))
        return made


def server_context(identity: Identity) -> ssl.SSLContext:
    """TLS for the server: clients may show a certificate, and need not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.file, identity.key)
    context.load_verify_locations(identity.file)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _openssl(*words: str) -> None:
    program = shutil.which("openssl")
    if program is None:
        raise NoOpenssl("no certificate can be made here (on Debian: apt-get install openssl)")
    subprocess.run([program, *words], capture_output=True, check=True)
