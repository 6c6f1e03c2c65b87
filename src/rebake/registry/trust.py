"""Whose certificates are believed: the machine's, and those that Docker was told of for one registry.

`SSL_CERT_FILE` and `SSL_CERT_DIR` take the place of the machine's own, as everywhere with OpenSSL. Docker's folders
`certs.d/HOST[:PORT]` hold authorities (`*.crt`) and client certificates (`*.cert` with `*.key`).

Source: docs.docker.com, "Verify repository client with certificates".
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from pathlib import Path

from rebake.errors import Permanent


def folders(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Where Docker keeps certificates: the machine's, and a rootless engine's."""
    config = environ.get("XDG_CONFIG_HOME") or str(Path(environ.get("HOME") or "/", ".config"))
    return Path("/etc/docker/certs.d"), Path(config, "docker", "certs.d")


def tls_context(host: str, places: Iterable[Path]) -> ssl.SSLContext:
    """The context for one registry. Raises: Permanent `registry-certificate` for a file that is no certificate."""
    context = ssl.create_default_context()
    if not _has_authorities():
        import certifi

        context.load_verify_locations(certifi.where())
    for place in places:
        folder = place / host
        for file in sorted(folder.glob("*.c[re][rt]*")):
            try:
                if file.suffix == ".crt":
                    context.load_verify_locations(file)
                elif file.suffix == ".cert":
                    context.load_cert_chain(file, file.with_suffix(".key"))
            except OSError as error:  # ssl.SSLError is one
                raise Permanent(
                    "registry-certificate",
                    f"expected a certificate for {host}, found a file that is none ({error})",
                    where=str(file),
                    remedy="replace the file, or remove it",
                ) from error
    return context


def _has_authorities() -> bool:
    paths = ssl.get_default_verify_paths()
    return bool(paths.cafile or (paths.capath and any(Path(paths.capath).iterdir())))
