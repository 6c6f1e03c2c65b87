"""Names of Envoy's things for ours: clusters, listeners, route configurations, files. Pure.

A fleet has up to five clusters, so that what users meet is counted apart from what testers and copies meet: the
users' own, `…~shield` for those of users' requests that another fleet answers when this one fails, `…~preview` for
requests with the preview header, `…~mirror` for copies of users' requests on their way to the listener that writes
records of them, and `…~copy` for them from there on.
"""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import quote

from rebake.errors import Permanent

PREVIEW_HEADER = "x-rebake-preview"
PREVIEW_VALUE = "candidate"
SHIELD = "~shield"
COPY = "~copy"


def environment_key(service: str, environment: str) -> str:
    """The name of an environment's route configuration, and of its files."""
    return f"{_segment(service)}.{_segment(environment)}"


def _segment(text: str) -> str:
    """Without slash, and without the dot that separates two of them."""
    return quote(text, safe="").replace(".", "%2E")


def cluster_name(service: str, environment: str, fleet: str) -> str:
    """The cluster that serves users, and whose counters the judge reads."""
    return f"{service}/{environment}/{fleet}"


def preview_name(cluster: str) -> str:
    return f"{cluster}~preview"


def shield_name(cluster: str) -> str:
    return f"{cluster}{SHIELD}"


def mirror_name(cluster: str) -> str:
    return f"{cluster}~mirror"


def copy_name(cluster: str) -> str:
    return f"{cluster}{COPY}"


def copies_listener(service: str, environment: str) -> str:
    """Where copies are written down: a listener inside of Envoy, without an address."""
    return f"{environment_key(service, environment)}~copies"


def file_name(cluster: str) -> str:
    """The endpoint file of a cluster: one path segment, whatever the fleet is called."""
    return f"{quote(cluster, safe='')}.json"


def stat_name(cluster: str) -> str:
    """The cluster as it stands in names of statistics. Source: Envoy, `Stats::Utility::sanitizeStatsName`."""
    return cluster.replace("://", "_").replace(":/", "_").replace(":", "_").replace("\0", "_")


def listener_name(service: str, environment: str, listen: str) -> str:
    """Holds the address, because Envoy moves no listener: another address is another listener."""
    return f"{environment_key(service, environment)}@{listen}"


def split_address(address: str) -> tuple[str, int]:
    """`HOST:PORT` or `[V6]:PORT` to an IP address and a port.

    Raises: Permanent `address-not-an-ip` when the host is neither an IP address nor `localhost`, or the port is none.
    >>> split_address("localhost:8080"), split_address("[::1]:80")
    (('127.0.0.1', 8080), ('::1', 80))
    """
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    host = "127.0.0.1" if host == "localhost" else host
    try:
        number = int(port)
        if not 0 < number < 65536:
            raise ValueError(port)
        return str(ip_address(host)), number
    except ValueError:
        raise Permanent(
            "address-not-an-ip",
            f"expected an IP address and a port such as 127.0.0.1:8080, found {address!r}",
            where=address,
            remedy="write the address of the interface, or 0.0.0.0:PORT for all of them",
        ) from None


def url(listen: str) -> str:
    """The address as a person opens it in a browser.

    >>> url("0.0.0.0:8080"), url("127.0.0.1:80"), url("[::]:81")
    ('http://127.0.0.1:8080/', 'http://127.0.0.1/', 'http://[::1]:81/')
    """
    host, port = split_address(listen)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}/" if port == 80 else f"http://{host}:{port}/"
