"""The agent's API from outside: HTTP over its Unix socket, or HTTPS to a team's server; the standard library alone."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rebake import __version__
from rebake.cli.remote import Remote
from rebake.errors import Transient, UsageError, from_json

VERSION_HEADER = "rebake-version"
CALL_SECONDS = 60.0
LINE_SECONDS = 20.0
"""A watched agent writes at least each second; one that is silent for this long hangs."""


class AgentAbsent(Exception):
    """Nobody answers on the socket."""


class OtherVersion(Exception):
    """The agent is another version of rebake; it did nothing."""

    def __init__(self, version: str) -> None:
        super().__init__(version)
        self.version = version


class AgentLost(Transient):
    """The agent went away in the middle of an answer."""

    def __init__(self, where: str) -> None:
        super().__init__(
            "agent-lost",
            "the agent went away before it answered; what it had begun goes on when it is started again",
            where=where,
            remedy="rebake status",
        )


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket. Source: unix(7)."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("agent", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Client:
    """Calls of docs/api.md. Errors that crossed the wire are raised as if they were our own.

    Raises (every call): AgentAbsent, OtherVersion, AgentLost, Transient `agent-not-answering`, and what the agent says.
    """

    def __init__(self, place: Path | Remote) -> None:
        self._place = place

    def call(
        self,
        method: str,
        target: str,
        doc: Mapping[str, Any] | None = None,
        *,
        timeout: float = CALL_SECONDS,
        any_version: bool = False,
    ) -> Any:
        """One call. `timeout` in seconds; `any_version` also talks to an agent of another version."""
        with self._asked(method, target, doc, timeout, any_version) as response:
            return json.loads(response.read())

    def lines(self, target: str) -> Iterator[Any]:
        """The documents of a stream, as they come."""
        with self._asked("GET", target, None, LINE_SECONDS, False) as response:
            while text := response.readline():
                doc = json.loads(text)
                if "error" in doc and "family" in doc:
                    raise from_json(doc)
                yield doc

    @contextmanager
    def _asked(
        self, method: str, target: str, doc: Mapping[str, Any] | None, timeout: float, any_version: bool
    ) -> Iterator[http.client.HTTPResponse]:
        headers = {} if any_version else {VERSION_HEADER: __version__}
        if isinstance(self._place, Remote):
            connection: http.client.HTTPConnection = self._place.connection(timeout)
            headers |= self._place.headers
        else:
            connection = _Connection(self._place, timeout)
        body = None if doc is None else json.dumps(doc).encode()
        try:
            self._connect(connection)
            connection.request(method, target, body, headers)
            response = connection.getresponse()
            if response.status >= 400:
                raise self._refusal(response)
            yield response
        except TimeoutError as error:
            raise Transient(
                "agent-not-answering",
                f"the agent did not answer within {timeout:g} seconds",
                where=str(self._place),
                remedy="the same command again"
                if isinstance(self._place, Remote)
                else "rebake agent stop, then the same command again; nothing that serves stops",
            ) from error
        except (ConnectionError, http.client.HTTPException, json.JSONDecodeError) as error:
            raise AgentLost(str(self._place)) from error
        finally:
            connection.close()

    def _connect(self, connection: http.client.HTTPConnection) -> None:
        try:
            connection.connect()
        except OSError as error:
            if isinstance(self._place, Remote):
                raise self._place.away(error) from error
            if isinstance(error, FileNotFoundError | ConnectionRefusedError):
                raise AgentAbsent from error
            if isinstance(error, PermissionError):
                raise UsageError(
                    "home-of-another-user",
                    "this agent belongs to another user",
                    where=str(self._place),
                    remedy="set REBAKE_HOME to a folder of your own",
                ) from error
            raise

    def _refusal(self, response: http.client.HTTPResponse) -> Exception:
        doc = json.loads(response.read())
        if doc.get("error") == "agent-of-another-version":
            return OtherVersion(response.getheader(VERSION_HEADER, "0"))
        return from_json(doc)
