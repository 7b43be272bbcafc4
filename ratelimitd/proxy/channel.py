"""The channel between supervisor and worker: whole messages and descriptors over a Unix stream socket.

A frame is its length, the number of descriptors that come along, and a message in msgpack. Sending never
blocks: what the socket does not take waits here. Works on any asyncio loop. `on_close` is called once, when
the other side is gone or speaks something else; after `close` nothing is called any more.
"""

from __future__ import annotations

import array
import os
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, Final

import msgspec

from ratelimitd.proxy.orders import Message

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator, Sequence

_HEADER: Final = struct.Struct("=II")
_MAX_FRAME: Final = 256 * 1024 * 1024
_READ_SIZE: Final = 256 * 1024
_MAX_DESCRIPTORS: Final = 250  # the kernel takes 253 with one call
_DESCRIPTOR_SPACE: Final = socket.CMSG_SPACE(253 * array.array("i").itemsize)


class Channel:
    """One end. Descriptors that arrive belong to the receiver and are close-on-exec."""

    def __init__(
        self,
        sock: socket.socket,
        loop: asyncio.AbstractEventLoop,
        on_message: Callable[[Message, list[int]], None],
        on_close: Callable[[], None],
    ) -> None:
        self._socket = sock
        self._loop = loop
        self._on_message = on_message
        self._on_close = on_close
        self._decoder = msgspec.msgpack.Decoder(Message)
        self._received = bytearray()
        self._descriptors: list[int] = []
        self._waiting: deque[tuple[bytes, Sequence[int]]] = deque()
        self._open = True
        sock.setblocking(False)
        loop.add_reader(sock.fileno(), self._readable)

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Send, or queue. `fds` must stay open until the other side has answered. Lost after the end."""
        if not self._open:
            return
        body = msgspec.msgpack.encode(message)
        frame = _HEADER.pack(len(body), len(fds)) + body
        self._waiting.extend(_pieces(frame, fds))
        self._writable()

    def close(self) -> None:
        """End the channel from this side."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()

    def _writable(self) -> None:
        while self._waiting:
            data, fds = self._waiting.popleft()
            try:
                sent = socket.send_fds(self._socket, [data], list(fds)) if fds else self._socket.send(data)
            except BlockingIOError:
                self._waiting.appendleft((data, fds))
                break
            except OSError:
                # The reader sees the end too, after what the other side said before it.
                self._waiting.clear()
                break
            if sent < len(data):
                self._waiting.appendleft((data[sent:], ()))
        if self._waiting:
            self._loop.add_writer(self._socket.fileno(), self._writable)
        else:
            self._loop.remove_writer(self._socket.fileno())

    def _readable(self) -> None:
        try:
            data, ancillary, flags, _ = self._socket.recvmsg(
                _READ_SIZE, _DESCRIPTOR_SPACE, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        except OSError:
            self._lost()
            return
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(payload[: len(payload) - len(payload) % numbers.itemsize])
                self._descriptors.extend(numbers)
        if not data or flags & socket.MSG_CTRUNC:
            self._lost()
            return
        self._received += data
        self._deliver()

    def _deliver(self) -> None:
        while self._open and len(self._received) >= _HEADER.size:
            length, count = _HEADER.unpack_from(self._received)
            if length > _MAX_FRAME:
                self._lost()
                return
            end = _HEADER.size + length
            if len(self._received) < end:
                return
            body = bytes(self._received[_HEADER.size : end])
            del self._received[:end]
            fds, self._descriptors = self._descriptors[:count], self._descriptors[count:]
            try:
                message = self._decoder.decode(body)
            except msgspec.MsgspecError:
                self._lost()
                return
            self._on_message(message, fds)

    def _lost(self) -> None:
        self.close()
        self._on_close()


def _pieces(frame: bytes, fds: Sequence[int]) -> Iterator[tuple[bytes, Sequence[int]]]:
    """Cut a frame so that each piece carries as many descriptors as the kernel takes with one call.

    Descriptors travel with bytes: the surplus goes with the first bytes of the frame, so that all are there
    when the frame is whole.
    """
    batches = [fds[start : start + _MAX_DESCRIPTORS] for start in range(0, len(fds), _MAX_DESCRIPTORS)]
    for index, batch in enumerate(batches[:-1]):
        yield frame[index : index + 1], batch
    yield frame[max(0, len(batches) - 1) :], batches[-1] if batches else ()
