"""Many clients at once, each sending its bytes in the pieces it is told to, and each with its own address.

Pieces are sent in rounds: every client sends one, then a request of a bystander is answered, and only then
comes the next round. So each piece is read by itself, however fast the sender, and the bystander shows that
what the others send troubles nobody.
"""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
import re
from collections.abc import Sequence
from typing import Final, cast

from tests.servers import LOOPBACK

_FIRST: Final = int(ipaddress.IPv4Address("127.1.0.1"))
_BYSTANDER: Final = "127.0.0.9"
_PATIENCE_S: Final = 30.0
_CROWD: Final = 150  # at once
_LENGTH: Final = re.compile(rb"(?i)\r\ncontent-length: ([0-9]+)")


@dataclasses.dataclass(frozen=True)
class Answer:
    status: int
    closes: bool  # it says so
    body: bytes


def address(number: int) -> str:
    return str(ipaddress.IPv4Address(_FIRST + number))


class Client(asyncio.Protocol):
    """One connection to the daemon; `ended` is set with its last byte."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.received = bytearray()
        self.ended = asyncio.Event()
        self.more = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's own classes are none of asyncio's

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.more.set()

    def connection_lost(self, error: Exception | None) -> None:
        del error
        self.ended.set()
        self.more.set()

    def answers(self) -> tuple[Answer, ...]:
        return tuple(read_answers(bytes(self.received)))


def read_answers(data: bytes) -> list[Answer]:
    """The answers in `data`. Those to HEAD have no body: none of ours starts like an answer."""
    answers = []
    while data:
        head, end, data = data.partition(b"\r\n\r\n")
        assert end, f"cut: {head!r}"
        lines = head.lower().split(b"\r\n")
        length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
        body = b"" if data.startswith(b"HTTP/") else data[:length]
        assert len(body) in (0, length)
        data = data[len(body) :]
        answers.append(Answer(int(lines[0][9:12]), b"connection: close" in lines, body))
    return answers


def is_whole(data: bytearray) -> bool:
    """Whether `data` is one answer to its end, whatever it says."""
    head, end, body = bytes(data).partition(b"\r\n\r\n")
    length = _LENGTH.search(head)
    return bool(end and length and len(body) >= int(length[1]))


class Crowd:
    """Clients of one daemon; `send` runs any number of them and gives what each was answered."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._bystander: Client | None = None
        self.count = 0

    async def _connect(self, source: str) -> Client:
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(Client, LOOPBACK, self._port, local_addr=(source, 0))
        return client

    async def send(self, cases: Sequence[Sequence[bytes]]) -> list[tuple[str, tuple[Answer, ...]]]:
        """For each case, which is a list of pieces: the address it was sent from, and the answers to it."""
        results = []
        for start in range(0, len(cases), _CROWD):
            results += await self._send_together(cases[start : start + _CROWD])
        return results

    async def _send_together(self, cases: Sequence[Sequence[bytes]]) -> list[tuple[str, tuple[Answer, ...]]]:
        sources = [address(self.count + number) for number in range(len(cases))]
        self.count += len(cases)
        clients = await asyncio.gather(*map(self._connect, sources))
        rounds = max(map(len, cases))
        for number in range(rounds):
            for client, pieces in zip(clients, cases, strict=True):
                if number < len(pieces) and not client.ended.is_set():
                    client.transport.write(pieces[number])
            if rounds > 1:
                await self._ask_aside()
        for client in clients:
            if not client.ended.is_set() and client.transport.can_write_eof():
                client.transport.write_eof()
        async with asyncio.timeout(_PATIENCE_S):
            await asyncio.gather(*(client.ended.wait() for client in clients))
        return [(source, client.answers()) for source, client in zip(sources, clients, strict=True)]

    async def _ask_aside(self) -> None:
        """One plain request of somebody else, answered: all that was sent before it has been read."""
        if self._bystander is None or self._bystander.ended.is_set():
            self._bystander = await self._connect(_BYSTANDER)
        client = self._bystander
        client.received.clear()
        client.transport.write(b"GET /bystander HTTP/1.1\r\nHost: bystander\r\n\r\n")
        async with asyncio.timeout(_PATIENCE_S):
            while not is_whole(client.received):
                assert not client.ended.is_set(), "the bystander's connection was ended"
                client.more.clear()
                await client.more.wait()
        (answer,) = client.answers()
        assert (answer.status, answer.body) == (200, _BYSTANDER.encode()), answer

    def close(self) -> None:
        if self._bystander is not None:
            self._bystander.transport.abort()
