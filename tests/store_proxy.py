"""What may happen between a daemon and its store: a way for bytes that does as a test says.

Replies are delayed, swallowed or cut off in the middle, connections reset, or nothing is answered at all.
What it is told holds when the method returns. `Doorkeeper` accepts and closes, and counts: whoever dials
without measure is seen. Both run in a thread of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import struct
import threading
from collections.abc import Callable
from typing import Final, Self

from tests.servers import LOOPBACK, free_port

_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER of no time: closing sends a reset
_AT_ONCE: Final = 65_536


@dataclasses.dataclass
class _Fate:
    """Of the bytes that come from now on."""

    delay_s: float = 0.0
    swallows_replies: bool = False
    is_black_hole: bool = False
    replies_left: int = -1  # bytes until the cut; -1: no cut
    pieces_to_cut: int = 0


class _Listening:
    """An event loop in a thread of its own, with one listening socket. `dials` counts connections."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.dials = 0
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
        self._server = await asyncio.start_server(self._accepted, LOOPBACK, self.port)

    async def _close(self) -> None:
        self._server.close()
        await asyncio.sleep(0)  # one that was just accepted begins, or nobody would close it
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # what was closed is let go

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.dials += 1
        await self._serve(reader, writer)

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        raise NotImplementedError

    @property
    def url(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}"


class Doorkeeper(_Listening):
    """Stands at a port, and lets nobody in."""

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        reader.feed_eof()
        client.close()


class StoreProxy(_Listening):
    """Before the server that listens on `target`. `connections` counts those open."""

    def __init__(self, target: int, host: str = LOOPBACK) -> None:
        super().__init__(free_port())
        self._host, self._target = host, target
        self._fate = _Fate()
        self._lets_go = asyncio.Event()
        self._lets_go.set()
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def connections(self) -> int:
        return len(self._writers)

    def pass_on(self) -> None:
        """Everything is well again, for what comes from now on."""
        self._tell(lambda: setattr(self, "_fate", _Fate()))

    def delay_replies(self, seconds: float) -> None:
        """Each piece of a reply arrives so much later; order is kept."""
        self._tell(lambda: setattr(self._fate, "delay_s", seconds))

    def hold_replies(self) -> None:
        """No reply arrives before `let_go`, and then all do, in their order."""
        self._tell(self._lets_go.clear)

    def let_go(self) -> None:
        self._tell(self._lets_go.set)

    def swallow_replies(self) -> None:
        """Commands arrive, and what is answered does not."""
        self._tell(lambda: setattr(self._fate, "swallows_replies", True))

    def black_hole(self) -> None:
        """Nothing arrives anywhere, and connections stay open."""
        self._tell(lambda: setattr(self._fate, "is_black_hole", True))

    def cut_after(self, bytes_of_replies: int) -> None:
        """So many bytes of replies, all connections together, are passed on; then the connection is reset."""
        self._tell(lambda: setattr(self._fate, "replies_left", bytes_of_replies))

    def cut_pieces(self, pieces: int) -> None:
        """The next `pieces` of replies are cut in the middle, each with a reset of its connection."""
        self._tell(lambda: setattr(self._fate, "pieces_to_cut", pieces))

    def cut(self) -> None:
        """Resets all connections."""
        self._tell(self._reset_all)

    def _reset_all(self) -> None:
        for writer in list(self._writers):
            _reset(writer)

    def _tell(self, what: Callable[[], object]) -> None:
        done = threading.Event()

        def do() -> None:
            what()
            done.set()

        self._loop.call_soon_threadsafe(do)
        assert done.wait(10)

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        self._writers.add(client)
        store: asyncio.StreamWriter | None = None
        try:
            answers, store = await asyncio.open_connection(self._host, self._target)
            ways = [self._commands(reader, store), self._replies(answers, client)]
            tasks = [asyncio.ensure_future(way) for way in ways]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        except OSError:
            _reset(client)
        finally:
            self._writers.discard(client)
            for writer in filter(None, (client, store)):
                writer.close()

    async def _commands(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_AT_ONCE):
            if not self._fate.is_black_hole:
                writer.write(data)

    async def _replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        while data := await reader.read(_AT_ONCE):
            await self._lets_go.wait()
            fate = self._fate
            if fate.is_black_hole or fate.swallows_replies:
                continue
            if fate.pieces_to_cut:
                fate.pieces_to_cut -= 1
                writer.write(data[: len(data) // 2])
                _reset(writer)
                return
            if 0 <= fate.replies_left < len(data):
                writer.write(data[: fate.replies_left])
                fate.replies_left = -1
                _reset(writer)
                return
            if fate.replies_left > 0:
                fate.replies_left -= len(data)
            due_s = max(due_s, loop.time() + fate.delay_s)  # never before what came before
            if due_s > loop.time():
                loop.call_at(due_s, _write, writer, data)
            else:
                writer.write(data)


def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    if not writer.is_closing():
        writer.write(data)


def _reset(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.close()
