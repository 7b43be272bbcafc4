"""Asks the admin server of a test's daemon, over TCP or its Unix socket, in any way a client might."""

from __future__ import annotations

import contextlib
import http.client
import socket
from types import MappingProxyType
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from typing import Any, TypeVar

    Answer = TypeVar("Answer", bound=msgspec.Struct)


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=20)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(str(self._path))


def ask(
    place: int | Path,
    method: str,
    target: str,
    parameters: Iterable[tuple[str, str]] = (),
    headers: Mapping[str, str] = MappingProxyType({}),
) -> tuple[int, dict[str, str], bytes]:
    """Status, fields (names in lower case) and body; `parameters` are sent as a form."""
    connection: http.client.HTTPConnection
    if isinstance(place, int):
        connection = http.client.HTTPConnection("127.0.0.1", place, timeout=20)
    else:
        connection = UnixConnection(place)
    body = urlencode(list(parameters))
    form = {"Content-Type": "application/x-www-form-urlencoded"} if body else {}
    with contextlib.closing(connection):
        connection.request(method, target, body or None, form | dict(headers))
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()


def exactly(data: bytes, type: type[Answer]) -> Answer:
    """An answer of this type: all of its fields, and nothing that the type does not know."""
    found = msgspec.json.decode(data, type=type)
    raw: Any = msgspec.json.decode(data)
    assert msgspec.json.decode(msgspec.json.encode(found)) == raw
    return found
