"""The clients of the soak: each asks over its own connections, pipelined and in pieces, and checks answers.

An answer is right when it is the one to the question that is next on its connection: number, checksum of what
was sent, every byte of the content. Some clients go away in the middle, some close their side early.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import random
from collections.abc import Iterator
from typing import Final

from tests.soak.questions import ENDING, PLAIN, Question, fragments, question

LOOPBACK: Final = "127.0.0.1"
MOST: Final = 1 << 20
PATIENCE_S: Final = 60.0
LEAVES_AFTER_S: Final = 0.05


class WrongAnswer(Exception):
    """An answer that is not the one to the question it came for."""


@dataclasses.dataclass
class Soak:
    """What all clients have in common."""

    port: int
    wanted: int  # answers
    numbers: Iterator[int] = dataclasses.field(default_factory=lambda: itertools.count(1))
    answered: int = 0
    cut: int = 0
    left: int = 0  # connections that a client ended in the middle


async def soak(port: int, seed: int, *, clients: int, answers: int) -> Soak:
    """Runs until so many answers came and were right."""
    shared = Soak(port, answers)
    async with asyncio.TaskGroup() as group:
        for n in range(clients):
            group.create_task(_client(shared, random.Random(f"{seed}/{n}")))
    return shared


async def _client(shared: Soak, rng: random.Random) -> None:
    while shared.answered < shared.wanted:
        reader, writer = await asyncio.open_connection(LOOPBACK, shared.port, limit=MOST)
        try:
            while shared.answered < shared.wanted and await _batch(shared, rng, reader, writer):
                pass
        finally:
            writer.transport.abort()


async def _batch(
    shared: Soak, rng: random.Random, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bool:
    """Some requests at once, and their answers; whether the connection is good for more."""
    count = rng.choice((1, 1, 2, 5, 12))
    questions = [question(rng, next(shared.numbers), may_end=n == count - 1) for n in range(count)]
    ends = rng.random() < 0.03
    leaves = rng.random() < 0.05
    async with asyncio.TaskGroup() as group:
        continues = asyncio.Event()
        asking = group.create_task(_ask(rng, writer, questions, continues, ends=ends))
        if leaves:
            await _leave(shared, rng, reader)
            asking.cancel()
            return False
        for asked in questions:
            if not await _check(shared, asked, reader, continues):
                asking.cancel()
                return False
            shared.answered += 1
    if ends and await reader.read(1):
        raise WrongAnswer(f"bytes behind the answer to {questions[-1].number}")
    return not ends


async def _leave(shared: Soak, rng: random.Random, reader: asyncio.StreamReader) -> None:
    """Goes away after some bytes of answers, or before."""
    shared.left += 1
    with contextlib.suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(rng.random() * LEAVES_AFTER_S):
            while rng.random() < 0.8:
                await reader.read(rng.randrange(1, 1_000))


async def _ask(
    rng: random.Random,
    writer: asyncio.StreamWriter,
    questions: list[Question],
    continues: asyncio.Event,
    *,
    ends: bool,
) -> None:
    last = questions[-1]
    ahead = b"".join(asked.head + asked.body for asked in questions[:-1]) + last.head
    try:
        for part in fragments(rng, ahead if last.expects else ahead + last.body):
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        if last.expects:
            await continues.wait()
            for part in fragments(rng, last.body):
                writer.write(part)
                await writer.drain()
        if ends:
            writer.write_eof()
    except ConnectionError:
        pass  # the reader sees what became of it


async def _check(
    shared: Soak, asked: Question, reader: asyncio.StreamReader, continues: asyncio.Event
) -> bool:
    """Reads the answer to a question; whether more may come after it. Raises WrongAnswer."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            status, fields = await _head(reader)
            while status == 100 and asked.expects:
                continues.set()
                status, fields = await _head(reader)
        if asked.answer == "cut" and status == 502:
            await reader.readexactly(int(fields["content-length"]))
            shared.cut += 1
            return False
        _expect(asked, "status", status, 204 if asked.answer == "empty" else 200)
        _expect(asked, "number", fields.get("x-number"), str(asked.number))
        content = await _content(reader, status, fields)
    except (asyncio.IncompleteReadError, OSError) as error:  # TimeoutError among them
        if asked.answer != "cut":
            raise WrongAnswer(f"no answer to {asked}: {error!r}") from error
        shared.cut += 1
        return False
    _expect(asked, "content", content, asked.wanted)
    if asked.answer in PLAIN or asked.answer == "close":
        _expect(asked, "checksum", fields["x-checksum"], str(asked.checksum))
    if asked.answer in ENDING and "close" in fields.get("connection", ""):
        _expect(asked, "end", await reader.read(1), b"")
        shared.answered += 1
        return False
    # How long the rest of chunks would be nobody knows: when it is too long, the connection ends unannounced.
    return asked.answer != "early" or not asked.chunked


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
    pairs = (line.partition(": ") for line in lines[1:])
    return int(lines[0].split(" ")[1]), {name.lower(): value for name, _, value in pairs}


async def _content(reader: asyncio.StreamReader, status: int, fields: dict[str, str]) -> bytes:
    if status == 204:
        return b""
    if "content-length" in fields:
        return await reader.readexactly(int(fields["content-length"]))
    if "transfer-encoding" not in fields:
        return await reader.read(-1)
    content = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        content += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return content


def _expect(asked: Question, what: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise WrongAnswer(f"{what} of the answer to {asked}: {found!r:.200}, not {wanted!r:.200}")
