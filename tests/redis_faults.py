"""What stands between a daemon and its store when the way is bad, and what stands where a store was.

`Way` passes bytes on as it is told: at once, late, or up to the middle of a reply and then a reset.
`Doorkeeper` accepts and closes, and counts: whoever dials without measure is seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Self

from tests.servers import LOOPBACK, free_port

_RESET = struct.pack("ii", 1, 0)


class _Loop:
    """An event loop in a thread of its own, with one listening socket."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, LOOPBACK, self.port)

    async def _close(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError


class Doorkeeper(_Loop):
    """Stands at a port, and lets nobody in."""

    dials = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.dials += 1
        reader.feed_eof()
        writer.close()


class Way(_Loop):
    """The way to the server at `target`; replies take `late_s`; after `cut` the next one is cut in two."""

    def __init__(self, target: int) -> None:
        super().__init__(free_port())
        self._target = target
        self._cuts = 0
        self.late_s = 0.0
        self.dials = 0

    @property
    def url(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}"

    def cut(self, replies: int) -> None:
        """The next `replies` replies are cut in the middle, each with a reset of its connection."""
        self._cuts = replies

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.dials += 1
        with contextlib.suppress(OSError):
            back, forth = await asyncio.open_connection(LOOPBACK, self._target)
            with _closing(writer), _closing(forth):
                ways = {asyncio.create_task(self._requests(reader, forth))}
                ways.add(asyncio.create_task(self._replies(back, writer)))
                try:
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for task in ways:
                        task.cancel()
                    await asyncio.gather(*ways, return_exceptions=True)

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)

    async def _replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """In order, each piece `late_s` after it came."""
        loop = asyncio.get_running_loop()
        due = 0.0
        while data := await reader.read(65536):
            if self._cuts:
                self._cuts -= 1
                _reset(writer, data[: len(data) // 2])
                return
            due = max(due, loop.time() + self.late_s)
            loop.call_at(due, writer.write, data)


def _reset(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


@contextlib.contextmanager
def _closing(writer: asyncio.StreamWriter) -> Iterator[None]:
    try:
        yield
    finally:
        writer.close()
