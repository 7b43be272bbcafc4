"""Reads a configuration again, in a program of its own, so that a big file stalls nothing here.

The program is always ready: it has loaded what it needs and waits for orders. So a reload, and above all the
refusal of a wrong one, takes as long as the file and not as long as the start of a program.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING, Final

import msgspec

from ratelimitd.control.reread import LENGTH, Reread, framed
from ratelimitd.errors import StartError

if TYPE_CHECKING:
    from ratelimitd.config.flags import Flags

logger = logging.getLogger(__name__)

_READ_S: Final = 60


class Reader:
    """Reads `path` under the daemon's `flags`."""

    def __init__(self, path: str | None, flags: Flags) -> None:
        self._path = path
        self._order = framed(msgspec.msgpack.encode(flags))
        self._program: asyncio.subprocess.Process | None = None

    async def prepare(self) -> None:
        """Start the program, unless it runs."""
        if self._path is None or (self._program is not None and self._program.returncode is None):
            return
        self._program = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "ratelimitd.control.reread", self._path),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # a Ctrl-C at the terminal is for the supervisor
        )

    async def read(self) -> Reread:
        """What the file and the flags say. StartError says what is wrong with it."""
        if self._path is None:
            raise StartError("this daemon was started without a file; restart it to change its flags")
        await self.prepare()
        assert self._program is not None
        try:
            async with asyncio.timeout(_READ_S):
                reread = await self._ask(self._program)
        except TimeoutError:
            await self.close()
            raise StartError(f"{self._path} was not read within {_READ_S} s") from None
        except (EOFError, OSError):
            said, status = await self._end_of(self._program)
            raise StartError(said or f"the program that reads {self._path} ended with {status}") from None
        if reread.refusal:
            raise StartError(reread.refusal)
        for line in reread.warnings:
            logger.warning("%s", line)
        return reread

    async def _ask(self, program: asyncio.subprocess.Process) -> Reread:
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write(self._order)
        await program.stdin.drain()
        length = int.from_bytes(await program.stdout.readexactly(LENGTH), "little")
        return msgspec.msgpack.decode(await program.stdout.readexactly(length), type=Reread)

    async def _end_of(self, program: asyncio.subprocess.Process) -> tuple[str, int | None]:
        """The last thing that a program said which has ended, and its status."""
        _, said = await program.communicate()
        lines = said.decode(errors="replace").strip().splitlines()
        return "".join(lines[-1:]), program.returncode

    async def close(self) -> None:
        """End the program, and the copy of it that reads."""
        program, self._program = self._program, None
        if program is not None and program.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)
            await program.communicate()
