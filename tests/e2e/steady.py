"""A steady stream of requests over many kept connections, each known by the worker that serves it.

Killing one worker must not cost the other a request. So every connection notes which process accepted it
(by its inode in /proc), asks one request after another, and when its worker is gone opens a new one. What
happened on each connection is kept, to be judged afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
from collections import Counter
from pathlib import Path
from typing import Final

from tests.servers import LOOPBACK

PAUSE_S: Final = 0.002


@dataclasses.dataclass
class Connection:
    """One connection: who accepted it (0 while unknown), its answers by status, whether one was lost."""

    local_port: int
    worker: int = 0
    answers: Counter[int] = dataclasses.field(default_factory=Counter)
    lost: bool = False


class SteadyLoad:
    """`connections` clients at once against `port`, from `start` to `stop`."""

    def __init__(self, port: int, connections: int) -> None:
        self.port = port
        self.connections: list[Connection] = []
        self._wanted = connections
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._client()) for _ in range(self._wanted)]

    async def stop(self) -> None:
        """Lets every client finish the request it has sent; raises what a client raised."""
        self._stopping = True
        await asyncio.wait_for(asyncio.gather(*self._tasks), 20)

    def answers(self) -> Counter[int]:
        return sum((connection.answers for connection in self.connections), Counter())

    def live(self) -> list[Connection]:
        """The connections that have not lost a request."""
        return [connection for connection in self.connections if not connection.lost]

    async def _client(self) -> None:
        while not self._stopping:
            reader, writer = await asyncio.open_connection(LOOPBACK, self.port)
            local_port = writer.get_extra_info("sockname")[1]
            connection = Connection(local_port)
            self.connections.append(connection)
            try:
                await self._ask_on(connection, reader, writer)
            except (OSError, EOFError):
                connection.lost = True
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

    async def _ask_on(
        self, connection: Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        request = f"GET / HTTP/1.1\r\nHost: {LOOPBACK}:{self.port}\r\n\r\n".encode()
        while not self._stopping:
            writer.write(request)
            await writer.drain()
            connection.answers[await read_answer(reader)] += 1
            await asyncio.sleep(PAUSE_S)


async def read_answer(reader: asyncio.StreamReader) -> int:
    """Reads one answer with Content-Length and gives its status."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    lines = head.split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
    await reader.readexactly(int(fields["content-length"]))
    return int(lines[0].split(" ")[1])


def note_workers(load: SteadyLoad, workers: set[int]) -> None:
    """Writes into each open connection of `load` which of `workers` holds its other end."""
    inodes = _inodes_by_client_port(load.port)
    owners = {inode: pid for pid in workers for inode in _socket_inodes(pid)}
    for connection in load.connections:
        if not connection.worker:
            connection.worker = owners.get(inodes.get(connection.local_port, -1), 0)


def _inodes_by_client_port(server_port: int) -> dict[int, int]:
    found = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].split(":")[1], 16) == server_port:
            found[int(fields[2].split(":")[1], 16)] = int(fields[9])
    return found


def _socket_inodes(pid: int) -> list[int]:
    inodes = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            target = os.readlink(entry)
            if target.startswith("socket:["):
                inodes.append(int(target[8:-1]))
    return inodes
