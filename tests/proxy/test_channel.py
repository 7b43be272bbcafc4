"""The channel delivers whole messages and their descriptors, in order, however the bytes are cut."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from typing import TYPE_CHECKING

import msgspec
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from ratelimitd.proxy.channel import Channel
from ratelimitd.proxy.orders import Compile, Compiled, Drain, Failed, Message, Ready, Start, Stop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]

MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(Start, config=st.binary(), page=st.integers(0, 99), listeners=st.lists(st.text()).map(tuple)),
    st.builds(Compile, config=st.binary(), generation=st.integers(0, 2**32)),
    st.builds(Compiled, generation=st.integers(0, 2**32)),
    st.builds(Failed, message=st.text(), generation=st.integers(0, 2**63)),
    st.just(Drain()),
    st.just(Ready()),
)


class End:
    """One end that keeps what it was told."""

    def __init__(self, sock: socket.socket) -> None:
        self.messages: list[Message] = []
        self.fds: list[int] = []
        self.told = asyncio.Event()
        self.closed = 0
        self.channel = Channel(sock, asyncio.get_running_loop(), self._message, self._close)

    def _message(self, message: Message, fds: list[int]) -> None:
        self.messages.append(message)
        self.fds += fds
        self.told.set()

    def _close(self) -> None:
        self.closed += 1
        self.told.set()

    async def until(self, count: int) -> None:
        while len(self.messages) < count and not self.closed:
            await self.next_event()

    async def until_closed(self) -> None:
        while not self.closed:
            await self.next_event()

    async def next_event(self) -> None:
        self.told.clear()
        await asyncio.wait_for(self.told.wait(), 10)


def run(new_loop: Callable[[], asyncio.AbstractEventLoop], main: Coroutine[None, None, None]) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main)


@pytest.mark.parametrize("new_loop", LOOPS)
@settings(max_examples=30)
@given(messages=st.lists(MESSAGES, max_size=20))
def test_messages_arrive_as_sent_and_in_order(
    new_loop: Callable[[], asyncio.AbstractEventLoop], messages: list[Message]
) -> None:
    async def main() -> None:
        left, right = socket.socketpair()
        sender, receiver = End(left), End(right)
        for message in messages:
            sender.channel.send(message)
        await receiver.until(len(messages))
        assert receiver.messages == messages
        sender.channel.close()
        await receiver.until_closed()
        assert receiver.closed == 1

    run(new_loop, main())


def _frame(message: Message) -> bytes:
    body = msgspec.msgpack.encode(message)
    return struct.pack("=II", len(body), 0) + body


def test_frames_cut_anywhere_are_put_together() -> None:
    async def main() -> None:
        left, right = socket.socketpair()
        receiver = End(right)
        messages: list[Message] = [Compile(b"x" * 50, 3), Drain(), Failed("why", 3)]
        for byte in b"".join(_frame(message) for message in messages):
            left.send(bytes([byte]))
            await asyncio.sleep(0)
        await receiver.until(3)
        assert receiver.messages == messages
        receiver.channel.close()
        left.close()

    run(asyncio.new_event_loop, main())


@pytest.mark.parametrize("new_loop", LOOPS)
@pytest.mark.parametrize("count", [1, 250, 251, 600])
def test_descriptors_arrive_with_their_message(
    new_loop: Callable[[], asyncio.AbstractEventLoop], count: int
) -> None:
    async def main() -> None:
        left, right = socket.socketpair()
        sender, receiver = End(left), End(right)
        read_end, write_end = os.pipe()
        sender.channel.send(Start(b"", 2, ("a",) * count), [write_end] * count)
        sender.channel.send(Stop())
        await receiver.until(2)
        assert receiver.messages == [Start(b"", 2, ("a",) * count), Stop()]
        assert len(receiver.fds) == count
        assert all(os.fstat(fd).st_ino == os.fstat(write_end).st_ino for fd in receiver.fds)
        assert not any(os.get_inheritable(fd) for fd in receiver.fds)
        for fd in [*receiver.fds, read_end, write_end]:
            os.close(fd)
        sender.channel.close()
        receiver.channel.close()

    run(new_loop, main())


@pytest.mark.parametrize("new_loop", LOOPS)
def test_sending_never_blocks(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Far more than a socket buffer, to a side that does not read yet."""

    async def main() -> None:
        left, right = socket.socketpair()
        sender = End(left)
        big = Compile(os.urandom(1_000_000), 1)
        for _ in range(8):
            sender.channel.send(big)
        receiver = End(right)
        await receiver.until(8)
        assert receiver.messages == [big] * 8
        sender.channel.close()
        receiver.channel.close()

    run(new_loop, main())


@pytest.mark.parametrize("rubbish", [struct.pack("=II", 5, 0) + b"hello", b"\xff" * 64])
def test_another_language_ends_the_channel(rubbish: bytes) -> None:
    async def main() -> None:
        left, right = socket.socketpair()
        receiver = End(right)
        left.send(_frame(Ready()) + rubbish)
        await receiver.until_closed()
        assert receiver.messages == [Ready()]
        assert receiver.closed == 1
        assert left.recv(1) == b""
        left.close()

    run(asyncio.new_event_loop, main())


def test_what_was_said_before_the_end_is_heard() -> None:
    async def main() -> None:
        left, right = socket.socketpair()
        sender, receiver = End(left), End(right)
        sender.channel.send(Failed("last words", 3))
        sender.channel.close()
        receiver.channel.send(Drain())
        await receiver.until_closed()
        assert receiver.messages == [Failed("last words", 3)]
        receiver.channel.send(Stop())
        receiver.channel.close()
        assert receiver.closed == 1

    run(asyncio.new_event_loop, main())


def test_closing_from_a_callback_stops_delivery() -> None:
    async def main() -> None:
        left, right = socket.socketpair()
        seen: list[Message] = []
        told = asyncio.Event()

        def take(message: Message, fds: list[int]) -> None:
            assert fds == []
            seen.append(message)
            channel.close()
            told.set()

        channel = Channel(right, asyncio.get_running_loop(), take, lambda: seen.append(Stop()))
        left.send(_frame(Ready()) + _frame(Drain()))
        await asyncio.wait_for(told.wait(), 10)
        assert seen == [Ready()]
        left.close()

    run(asyncio.new_event_loop, main())
