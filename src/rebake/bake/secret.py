"""What is likely a secret, by its name or first bytes. Pure.

A release travels through every environment and lies in every registry; a secret in it can never be taken back. Wrong
alarms are answered by `exclude`, or by `!path` in `.dockerignore` where the file is wanted.
"""

from __future__ import annotations

import re

_ENV_EXAMPLES = frozenset({b".env.example", b".env.sample", b".env.template", b".env.dist", b".env.defaults"})
_NAMES = frozenset(
    {b".netrc", b"_netrc", b".pgpass", b".git-credentials", b".vault-token"}
    | {b"id_" + kind for kind in (b"rsa", b"dsa", b"ecdsa", b"ed25519", b"ecdsa_sk", b"ed25519_sk")}
)
_TAILS = (
    b".aws/credentials",
    b".docker/config.json",
    b".kube/config",
    b".azure/accessTokens.json",
    b".config/gcloud/application_default_credentials.json",
)
_KEY = re.compile(rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----")
_TOKENS = {
    b".npmrc": re.compile(rb"(?m)^[^#;\n]*(?:_authToken|_auth|_password)\s*=\s*(?!\$\{)\S"),
    b".yarnrc.yml": re.compile(rb"(?m)^\s*npmAuth(?:Token|Ident):\s*(?![\"']?\$\{)\S"),
    b".pypirc": re.compile(rb"(?mi)^\s*password\s*[=:]\s*\S"),
    b"pip.conf": re.compile(rb"(?m)://[^/\s:@]+:[^/\s@$]+@"),
    b"uv.toml": re.compile(rb"(?m)://[^/\s:@]+:[^/\s@$]+@"),
}
_SERVICE_ACCOUNT = re.compile(rb'"type"\s*:\s*"service_account"')
_AWS_KEY = re.compile(rb"(?mi)^\s*aws_secret_access_key\s*=\s*\S")
HEAD = 64 * 1024
"""How many bytes from the start are looked at."""


def secret_by_name(path: bytes) -> bool:
    """Whether the name alone says so.

    >>> secret_by_name(b"a/.env.production"), secret_by_name(b".env.example"), secret_by_name(b"ssh/id_ed25519")
    (True, False, True)
    """
    name = path.rpartition(b"/")[2]
    if name.startswith(b".env"):
        return (name == b".env" or name.startswith(b".env.")) and name not in _ENV_EXAMPLES
    return name in _NAMES or any(path == tail or path.endswith(b"/" + tail) for tail in _TAILS)


def secret_by_content(path: bytes, head: bytes) -> bool:
    """Whether the first bytes say so: a private key in whatever file, tokens in the files that usually hold them.

    Args:
        head: the first `HEAD` bytes.
    """
    name = path.rpartition(b"/")[2]
    starts_as_key = head[:128].lstrip().startswith(b"-----BEGIN ")
    if (starts_as_key or name.endswith((b".pem", b".key"))) and _KEY.search(head):
        return True
    if name in _TOKENS:
        return _TOKENS[name].search(head) is not None
    if name.endswith(b".json") and len(head) < HEAD and b"private_key" in head:
        return _SERVICE_ACCOUNT.search(head) is not None
    return name == b"credentials" and _AWS_KEY.search(head) is not None
