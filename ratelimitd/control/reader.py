"""Reads a configuration again, in a program of its own, so that a big file stalls nothing here.

One such program is always ready: it has loaded what it needs and waits for its orders. So a reload, and above
all the refusal of a wrong one, takes as long as the file and not as long as the start of a program.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import sys
from typing import TYPE_CHECKING, Final

import msgspec

from ratelimitd.errors import StartError

if TYPE_CHECKING:
    from ratelimitd.config.flags import Flags

logger = logging.getLogger(__name__)

_READ_S: Final = 60


@dataclasses.dataclass(frozen=True)
class Reread:
    """What a file says now: a Config in msgpack, and what is unwise in it."""

    encoded: bytes
    warnings: tuple[str, ...] = ()


class Reader:
    """Reads `path` under the daemon's `flags`."""

    def __init__(self, path: str | None, flags: Flags) -> None:
        self._path = path
        self._flags = msgspec.msgpack.encode(flags)
        self._ready: asyncio.subprocess.Process | None = None

    async def prepare(self) -> None:
        """Start the program for the next reading, unless it is there."""
        if self._path is None or (self._ready is not None and self._ready.returncode is None):
            return
        self._ready = await asyncio.create_subprocess_exec(
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
        process, self._ready = self._ready, None
        assert process is not None
        try:
            async with asyncio.timeout(_READ_S):
                encoded, said = await process.communicate(self._flags)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise StartError(f"{self._path} was not read within {_READ_S} s") from None
        lines = said.decode(errors="replace").strip().splitlines()
        if process.returncode != 0:
            raise StartError(
                " | ".join(lines) or f"the program that reads it ended with {process.returncode}"
            )
        for line in lines:
            logger.warning("%s", line)
        return Reread(encoded, tuple(lines))

    async def close(self) -> None:
        """End the program that waits."""
        process, self._ready = self._ready, None
        if process is not None and process.returncode is None:
            process.kill()
            await process.communicate()
