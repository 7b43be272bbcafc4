"""Reload in two steps: read and have every worker prepare; only when all could, put it in force everywhere.

Until the second step nothing has changed, so a configuration that is wrong, or that one worker cannot use,
is refused whole and the old one stays. Reloads never overlap: signals that come during one make one more.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from typing import TYPE_CHECKING, Final

import msgspec

from ratelimitd.config.model import Config
from ratelimitd.control import catalogue
from ratelimitd.control.resolve import check_upstreams
from ratelimitd.errors import RatelimitdError, StartError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ratelimitd.config.flags import Flags
    from ratelimitd.control.notify import Notifier
    from ratelimitd.control.status import Status
    from ratelimitd.control.workers import Workers
    from ratelimitd.segment.registry import Registry

logger = logging.getLogger(__name__)

# What is bound to processes, sockets and memory that a reload keeps.
NEEDS_RESTART: Final = ("workers", "listen", "store", "store_options", "admin", "journal")
_READ_S: Final = 60


class Reloader:
    """Takes the daemon from the configuration in force to the one that `read_again` reads, in msgpack."""

    def __init__(
        self,
        config: Config,
        read_again: Callable[[], Awaitable[bytes]],
        workers: Workers,
        registry: Registry,
        status: Status,
        notifier: Notifier,
    ) -> None:
        self._config = config
        self._read_again = read_again
        self._workers = workers
        self._registry = registry
        self._status = status
        self._notifier = notifier
        self._generation = 0
        self._wanted = asyncio.Event()

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self._config

    def request(self) -> None:
        """Reload soon: what a signal calls."""
        self._wanted.set()

    async def run(self) -> None:
        """Reload whenever it is asked for, for ever."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            self._notifier.reloading()
            try:
                changed = await self._reload()
            except RatelimitdError as error:
                self._status.reload_successful = False
                self._status.reloads["refused"] += 1
                logger.error("reload refused, the old configuration stays: %s", error)
                self._notifier.reloaded(refused=str(error))
            else:
                self._status.reload_successful = True
                self._status.reload_success_at_s = time.time()
                self._status.reloads["success"] += 1
                logger.info("reloaded: %s", f"changed {', '.join(changed)}" if changed else "nothing changed")
                self._notifier.reloaded()

    async def _reload(self) -> list[str]:
        """Names of the sections that changed; RatelimitdError says why it was refused, and nothing did."""
        encoded = await self._read_again()
        config = msgspec.msgpack.decode(encoded, type=Config)
        changed = [
            name for name in Config.__struct_fields__ if getattr(config, name) != getattr(self._config, name)
        ]
        fixed = [name for name in changed if name in NEEDS_RESTART]
        if fixed:
            raise StartError(f"a change of {', '.join(fixed)} needs a restart")
        await check_upstreams(config)
        self._generation += 1
        catalogue.register(config, self._registry)
        await self._workers.compile(encoded, self._generation)
        await self._workers.swap()
        self._config = config
        return changed


async def read(path: str | None, flags: Flags) -> bytes:
    """The configuration in `path`, in msgpack, read by a program of its own."""
    if path is None:
        raise StartError("this daemon was started without a file; restart it to change its flags")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "ratelimitd.control.reread", path),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_READ_S):
            encoded, said = await process.communicate(msgspec.msgpack.encode(flags))
    except TimeoutError:
        process.kill()
        await process.wait()
        raise StartError(f"{path} was not read within {_READ_S} s") from None
    lines = said.decode(errors="replace").strip().splitlines()
    if process.returncode != 0:
        raise StartError(" | ".join(lines) or f"the program that reads it ended with {process.returncode}")
    for line in lines:
        logger.warning("%s", line)
    return encoded
