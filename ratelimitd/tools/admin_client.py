"""Asks a running daemon through its admin address: the Unix socket, or HTTP with the token.

Answers come back as the types of `control.answers`. NoDaemon: nobody answers there; AdminRefusal: the daemon
said no, and why.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import urlencode

import msgspec

from ratelimitd.control.answers import Problem, ReloadAnswer
from ratelimitd.errors import AdminRefusal, NoDaemon, StartError

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_SOCKET: Final = "/run/ratelimitd/admin.sock"
DEFAULT_ADDRESS: Final = ("127.0.0.1", 10_429)
_TIMEOUT_S: Final = 130  # longer than the daemon itself takes to give up

Answer = TypeVar("Answer", bound=msgspec.Struct)
Parameters = list[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a daemon is asked: a Unix socket, or an address with the token that changes need there."""

    socket: str = ""
    address: tuple[str, int] = DEFAULT_ADDRESS
    token: str = ""

    def __str__(self) -> str:
        host, port = self.address
        return self.socket or (f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")


def place(socket: str | None, url: str | None, config: str | None, token_file: str | None) -> Place:
    """What flags name; without any the service's own socket if this machine has one, else the default
    address. ValueError for a wrong URL."""
    if socket is not None:
        found = Place(socket)
    elif url is not None:
        found = _place_of_url(url)
    elif config is not None:
        found = _place_of_config(config)
    else:
        found = Place(DEFAULT_SOCKET if os.path.exists(DEFAULT_SOCKET) else "")
    if token_file is None:
        return found
    try:
        token = Path(token_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise StartError(f"the token in {token_file} cannot be read: {reason}") from None
    return dataclasses.replace(found, token=token)


def _place_of_url(url: str) -> Place:
    """`http://host:port`, `host:port` or `unix:/path`."""
    if url.startswith("unix:"):
        return Place(url.removeprefix("unix:"))
    if "://" in url and not url.startswith("http://"):
        raise ValueError(f"argument --admin: {url!r} is neither http://host:port nor unix:/path")
    host, colon, port = url.removeprefix("http://").rstrip("/").rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
        raise ValueError(f"argument --admin: {url!r} has no host and port: write http://127.0.0.1:10429")
    return Place(address=(host.removeprefix("[").removesuffix("]"), int(port)))


def _place_of_config(path: str) -> Place:
    """Where the daemon of this configuration is, whatever else is wrong in it; ConfigError when that cannot
    be read."""
    from ratelimitd.config import load

    admin = load.load_admin(path)
    if admin.socket:
        return Place(admin.socket)
    token = ""
    if admin.token_file:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            token = Path(admin.token_file).read_text(encoding="utf-8").strip()
    return Place(address=(admin.host, admin.port), token=token)


class AdminClient:
    """One daemon."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def get(self, path: str, type: type[Answer], parameters: Sequence[tuple[str, str]] = ()) -> Answer:
        """Read a page."""
        query = urlencode(list(parameters), errors="surrogateescape")
        return self._ask("GET", f"{path}?{query}" if query else path, "", type)

    def post(self, path: str, type: type[Answer], parameters: Sequence[tuple[str, str]] = ()) -> Answer:
        """Ask for a change. Parameters go in the body: values may be secrets."""
        return self._ask("POST", path, urlencode(list(parameters), errors="surrogateescape"), type)

    def _ask(self, method: str, target: str, body: str, type: type[Answer]) -> Answer:
        headers = {"Authorization": f"Bearer {self._place.token}"} if self._place.token else {}
        if body:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        connection = self._connection()
        try:
            with contextlib.closing(connection):
                connection.request(method, target, body or None, headers)
                answer = connection.getresponse()
                status, data = answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or "the connection was closed"
            raise NoDaemon(
                f"no daemon answers at {self._place} ({reason}); is it running? "
                "name another place with --socket PATH, --admin URL or -c FILE"
            ) from None
        return self._decode(status, data, type)

    def _decode(self, status: int, data: bytes, type: type[Answer]) -> Answer:
        try:
            if status == 200 or (status == 409 and type is ReloadAnswer):
                return msgspec.json.decode(data, type=type)
            raise AdminRefusal(msgspec.json.decode(data, type=Problem).error)
        except msgspec.DecodeError:
            raise NoDaemon(
                f"what answers at {self._place} is no ratelimitd of this version (status {status})"
            ) from None

    def _connection(self) -> http.client.HTTPConnection:
        if self._place.socket:
            return _UnixConnection(self._place.socket)
        host, port = self._place.address
        return http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
