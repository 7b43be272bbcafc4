"""A web server that keeps every byte of every connection and answers each complete request, whoever asks.

Clients are told apart by their address: each has one of its own, which the daemon tells in X-Forwarded-For,
and which is the body of the answer. So whatever arrives belongs to somebody, and so does each answer.
"""

from __future__ import annotations

import asyncio
import re
from typing import Final, Self, cast

from tests.replay.messages import Message, Unreadable, disagreement, split
from tests.servers import LOOPBACK

_WINDOW: Final = 8192
_CLIENT: Final = re.compile(rb"\r\nX-Forwarded-For: ([0-9.]+)\r\n")


def client_of(head: bytes) -> str:
    """The address of the client that a forwarded head names; empty: none."""
    found = _CLIENT.search(head)
    return found[1].decode() if found else ""


class Connection(asyncio.Protocol):
    """One connection from the daemon."""

    transport: asyncio.Transport

    def __init__(self, recorder: Recorder) -> None:
        self.rest = b""
        self.unchecked = b""  # what came since the naive readers looked
        self._recorder = recorder

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's own classes are none of asyncio's

    def data_received(self, data: bytes) -> None:
        self.unchecked += data
        try:
            messages, self.rest = split(self.rest + data)
        except Unreadable:
            self._recorder.unreadable.append(self.unchecked)
            self.transport.abort()
            return
        if not self.rest and len(self.unchecked) > _WINDOW:
            self.check()
        for message in messages:
            self._recorder.messages.append(message)
            body = client_of(message.head).encode()
            answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
            self.transport.write(answer if message.method == b"HEAD" else answer + body)

    def connection_lost(self, error: Exception | None) -> None:
        del error
        self.check()

    def check(self) -> None:
        found = disagreement(self.unchecked)
        if found:
            self._recorder.ambiguous.append((found, self.unchecked))
        self.unchecked = b""


class Recorder:
    """The server; use `async with`."""

    def __init__(self) -> None:
        self.connections: list[Connection] = []
        self.messages: list[Message] = []  # the complete requests, as they arrived
        self.unreadable: list[bytes] = []
        self.ambiguous: list[tuple[str, bytes]] = []  # who differs, and on what
        self.port = 0
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._made, LOOPBACK, 0, backlog=4096)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for connection in self.connections:
            connection.transport.abort()

    def _made(self) -> Connection:
        connection = Connection(self)
        self.connections.append(connection)
        return connection

    def forget(self) -> None:
        """All that arrived so far, but the connections that are still open."""
        self.messages.clear()
        self.unreadable.clear()
        self.ambiguous.clear()
        self.connections = [one for one in self.connections if not one.transport.is_closing()]

    def by_client(self) -> dict[str, list[Message]]:
        """The complete requests of each client, in the order in which they arrived."""
        found: dict[str, list[Message]] = {}
        for message in self.messages:
            found.setdefault(client_of(message.head), []).append(message)
        return found

    def faults(self) -> list[str]:
        """What arrived and cannot be read, or not in one way only."""
        for connection in self.connections:
            connection.check()
        return [f"unreadable: {data!r}" for data in self.unreadable] + [
            f"read differently by {who}: {data!r}" for who, data in self.ambiguous
        ]
