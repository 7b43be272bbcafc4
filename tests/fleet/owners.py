"""Whoever owns links in a test: keeps what it is told, and waits for what it is yet to be told."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

import hiredis
import uvloop

from ratelimitd.errors import StoreFault


class Owner(ABC):
    """`faults` are the losses it was told of."""

    def __init__(self) -> None:
        self.faults: list[StoreFault] = []
        self._told = asyncio.Event()

    @abstractmethod
    def close(self) -> None:
        """Ends all its links."""

    def tell(self) -> None:
        """Something has come: whoever waits for it looks."""
        self._told.set()

    def lost(self, fault: StoreFault) -> None:
        self.faults.append(fault)
        self.tell()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self._told.clear()
                await self._told.wait()


AnOwner = TypeVar("AnOwner", bound=Owner)


def run_with(new_owner: Callable[[], AnOwner], test: Callable[[AnOwner], Awaitable[None]]) -> None:
    """Runs `test` on the workers' loop, and closes what its owner has opened."""

    async def main() -> None:
        owner = new_owner()
        try:
            await test(owner)
        finally:
            owner.close()
            await asyncio.sleep(0)

    uvloop.run(main())


def packed(*words: str | bytes) -> bytes:
    """A command as it is sent."""
    return bytes(hiredis.pack_command(cast("Any", words)))
