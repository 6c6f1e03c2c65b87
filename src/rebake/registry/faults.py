"""What went wrong with a registry, in our words: from an answer, or from what the network did. Pure.

Most specific first. The registry's own words are the evidence.

Source: OCI distribution-spec v1.1, "Error Codes".
"""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime

from rebake.errors import Permanent, PlatformError, Transient

RETRY_SECONDS = 2.0
_FULL = re.compile(r"no space left|disk quota exceeded|insufficient storage", re.IGNORECASE)


def words(body: bytes) -> list[str]:
    """The registry's reasons, one line each: its code and message."""
    try:
        found = json.loads(body)["errors"]
        lines = [f"{one.get('code', '')}: {one.get('message', '')} {_detail(one.get('detail'))}" for one in found]
    except (ValueError, KeyError, TypeError, AttributeError):
        lines = body.decode(errors="replace").splitlines()
    return [line.strip()[:300] for line in lines if line.strip()][:5]


def _detail(detail: object) -> str:
    return "" if detail in (None, "", {}, []) else json.dumps(detail)


def refusal(host: str, what: str, status: int, headers: Mapping[str, str], body: bytes) -> PlatformError:
    """An answer that is no success.

    Args:
        host: of the registry, as people name it.
        what: the repository, image or blob that was asked for.
    """
    said = words(body)
    if status == 401 and "insufficient_scope" not in headers.get("www-authenticate", ""):
        return Permanent(
            "registry-unauthorized",
            f"the registry {host} does not know who asks for {what}, or does not accept the password",
            where=host,
            remedy=f"docker login {host} (rebake reads Docker's configuration; DOCKER_CONFIG names another one)",
            evidence=said,
        )
    if status in (401, 403):
        return Permanent(
            "registry-denied",
            f"the registry {host} does not let this user at {what}",
            where=host,
            remedy="ask for the right to it, or docker login as somebody who has it",
            evidence=said,
        )
    if status == 404:
        return Permanent(
            "image-unknown",
            f"the registry {host} has no {what}",
            where=host,
            remedy="correct the name; where a repository must be made before it is pushed to, make it",
            evidence=said,
        )
    if status == 429:
        wait = retry_after(headers)
        return Transient(
            "registry-busy",
            f"the registry {host} wants fewer requests ({what})",
            where=host,
            remedy=f"try again after {wait:.0f}s; signed-in users are often allowed more (docker login {host})",
            evidence=said,
            retry_after_seconds=wait,
        )
    if status == 507 or _FULL.search(" ".join(said)):
        return Permanent(
            "registry-full",
            f"the registry {host} has no space left for {what}",
            where=host,
            remedy="free space on the registry's disk, or raise its quota, then push again",
            evidence=said,
        )
    if status >= 500:
        return Transient(
            "registry-failed",
            f"the registry {host} failed with {status} ({what})",
            where=host,
            remedy="try again; its own log says more",
            evidence=said,
            retry_after_seconds=retry_after(headers),
        )
    return Permanent(
        "registry-refused",
        f"the registry {host} refused with {status} ({what})",
        where=host,
        remedy="read the evidence: it is what the registry said",
        evidence=said,
    )


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds to wait, by `Retry-After`: a number, or a date beside the answer's own. Source: RFC 9110, 10.2.3."""
    said = headers.get("retry-after", "").strip()
    if said.isdigit():
        return float(said)
    try:
        until = parsedate_to_datetime(said)
        now = parsedate_to_datetime(headers.get("date", "")) if headers.get("date") else datetime.now(until.tzinfo)
        return max(0.0, (until - now).total_seconds())
    except (ValueError, TypeError):
        return RETRY_SECONDS


def lost(host: str, error: Exception) -> PlatformError:
    """No answer, or half of one."""
    reasons = list(_chain(error))
    for reason in reasons:
        if isinstance(reason, ssl.SSLCertVerificationError):
            return Permanent(
                "registry-certificate",
                f"the certificate of {host} is not to be trusted: {reason.verify_message}",
                where=host,
                remedy=f"put its authority's certificate into /etc/docker/certs.d/{host}/ca.crt, or name it in "
                "SSL_CERT_FILE",
            )
        if isinstance(reason, ssl.SSLError) and reason.reason == "WRONG_VERSION_NUMBER":
            return insecure(host)
    text = " ".join(str(reason) for reason in reasons)
    if re.search(r"name or service not known|name resolution|nodename nor servname|no address associated", text, re.I):
        return Permanent(
            "registry-host-unknown",
            f"no address is known for {host}",
            where=host,
            remedy="correct the registry's name, or this machine's name server",
        )
    return Transient(
        "registry-unreachable",
        f"the registry {host} does not answer: {str(reasons[-1]) or type(reasons[-1]).__name__}",
        where=host,
        remedy="check that it runs and that this machine reaches it, then run the same command again: what was sent "
        "or fetched whole is not sent or fetched again",
    )


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in found:
        found.append(one)
        one = one.__cause__ or one.__context__
    return found


def insecure(host: str) -> Permanent:
    return Permanent(
        "registry-insecure",
        f"expected TLS from {host}, found plain HTTP, which is used on this machine's loopback only",
        where=host,
        remedy="give the registry a certificate, or reach it by a tunnel that ends on 127.0.0.1",
    )


def other_bytes(host: str, what: str, wanted: str, found: str) -> Permanent:
    return Permanent(
        "registry-digest-mismatch",
        f"expected {what} with the digest {wanted} from {host}, found bytes with {found}",
        where=host,
        remedy="something between here and the registry changes bytes, or its storage is damaged: nothing was kept",
    )
