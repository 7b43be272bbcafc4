"""The floor of every proxy on this event loop: bytes from one socket to another, unread.

`python relay.py LISTEN_PORT UPSTREAM_PORT`, on loopback; each client gets an upstream connection of its own.
"""

from __future__ import annotations

import asyncio
import sys
from typing import ClassVar, cast

import uvloop

LOOPBACK = "127.0.0.1"


class Side(asyncio.Protocol):
    """One end of a relayed connection; what it receives goes to the transport of the other."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.other: asyncio.Transport | None = None
        self.early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self.early.append(data)
        else:
            self.other.write(data)

    def connection_lost(self, _exc: Exception | None) -> None:
        if self.other is not None:
            self.other.close()


class Client(Side):
    """The end that somebody connected to: connects upstream, then relays what came meanwhile."""

    upstream_port = 0
    connecting: ClassVar[set[asyncio.Task[None]]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        task = asyncio.get_running_loop().create_task(self._connect())
        self.connecting.add(task)
        task.add_done_callback(self.connecting.discard)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        upstream, side = await loop.create_connection(Side, LOOPBACK, self.upstream_port)
        side.other, self.other = self.transport, upstream
        upstream.writelines(self.early)


async def serve(port: int, upstream_port: int) -> None:
    Client.upstream_port = upstream_port
    server = await asyncio.get_running_loop().create_server(Client, LOOPBACK, port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2])))
