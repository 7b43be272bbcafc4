"""The program that reads a configuration again: always there, keeps nothing, is never waited for in vain."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from ratelimitd.config.flags import Flags
from ratelimitd.config.model import Config
from ratelimitd.control.reader import Reader
from ratelimitd.errors import StartError
from tests.daemon import command_line, has_ended

GOOD = "upstreams: {web: {servers: ['http://127.0.0.1:9']}}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ratelimitd.yaml"
    path.write_text(GOOD)
    return path


@contextlib.asynccontextmanager
async def reading(file: Path) -> AsyncIterator[tuple[Reader, int]]:
    """A reader that is ready, and the pid of its program."""
    reader = Reader(str(file), Flags(workers=3))
    await reader.prepare()
    async with asyncio.timeout(10):
        while not (found := programs(file)):  # the kernel's list may leave one out for a moment
            await asyncio.sleep(0.01)
    yield reader, found[0]
    await reader.close()
    assert programs(file) == []


def programs(file: Path) -> list[int]:
    """The children of this process that read `file`."""
    return [pid for pid in children_of(os.getpid()) if str(file).encode() in command_line(pid)]


def take_long(file: Path) -> None:
    """Makes it a file whose reading takes seconds: a long list of networks."""
    networks = (f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}\n" for n in range(0, 1_000_000, 2))
    file.with_name("networks").write_text("".join(networks))
    file.write_text(GOOD + "clients: {deny: ['file:networks']}\n")


def write_headers(file: Path, most: int, more: str = "") -> None:
    file.write_text(f"{GOOD}bounds: {{headers: {most}}}\n{more}")


async def copy_of(program: int) -> int:
    """The copy that reads, once there is one."""
    while not (copies := children_of(program)):
        await asyncio.sleep(0.01)
    return copies[0]


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_one_program_reads_every_time_what_is_there_then(file: Path) -> None:
    async def read() -> None:
        async with reading(file) as (reader, program):
            for most in (100, 200):
                write_headers(file, most, "store: mem\n")
                with pytest.raises(StartError, match=rf"{file}:3:8: "):
                    await reader.read()
                write_headers(file, most)
                config = msgspec.msgpack.decode((await reader.read()).encoded, type=Config)
                assert (config.bounds.headers, config.workers) == (most, 3)
            assert programs(file) == [program]

    asyncio.run(read())


def test_a_program_that_was_killed_is_replaced(file: Path) -> None:
    async def read() -> None:
        async with reading(file) as (reader, program):
            os.kill(program, signal.SIGKILL)
            with contextlib.suppress(StartError):  # until its end is noticed
                await reader.read()
            assert (await reader.read()).refusal == ""
            assert programs(file) != [program]

    asyncio.run(read())


def test_a_copy_that_dies_is_told(file: Path) -> None:
    take_long(file)

    async def read() -> None:
        async with reading(file) as (reader, program):
            asked = asyncio.create_task(reader.read())
            os.kill(await copy_of(program), signal.SIGKILL)
            with pytest.raises(StartError, match=f"the program that reads {file} ended with 9"):
                await asked

    asyncio.run(read())


def test_closing_ends_a_copy_that_reads(file: Path) -> None:
    take_long(file)

    async def read() -> None:
        async with reading(file) as (reader, program):
            asked = asyncio.create_task(reader.read())
            copy = await copy_of(program)
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
        while not has_ended(copy):
            await asyncio.sleep(0.01)

    asyncio.run(read())
