"""Opening a connection to a web server: the slow path, in time or not at all.

Whatever goes wrong (refused, no such name, too slow) is an OSError for the caller; nothing of the request
has been sent then.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from ratelimitd.config.model import Server
    from ratelimitd.proxy.names import Names
    from ratelimitd.proxy.unreached import Unreached


# This machine has too little of something: no fault of the server that was to be reached.
SHORTAGES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})


class Dialer:
    """Connects to the servers of one upstream, which `names` finds; what fails is noted in `unreached`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        connect_ms: int,
        upstream: str,
        unreached: Unreached,
        names: Names,
    ) -> None:
        self._loop = loop
        self._connect_s = connect_ms / 1000
        self._upstream = upstream
        self._unreached = unreached
        self._names = names

    async def __call__(
        self, server: Server, factory: Callable[[], asyncio.BaseProtocol]
    ) -> tuple[asyncio.BaseTransport, asyncio.BaseProtocol]:
        """An open connection with the protocol of `factory`. Raises OSError, TimeoutError among them."""
        try:
            async with asyncio.timeout(self._connect_s):
                if server.unix_path:
                    return await self._loop.create_unix_connection(factory, server.unix_path)
                return await self._connect(server, factory)
        except OSError as error:
            self._unreached.note(self._upstream, server.url, error)
            raise

    async def _connect(
        self, server: Server, factory: Callable[[], asyncio.BaseProtocol]
    ) -> tuple[asyncio.BaseTransport, asyncio.BaseProtocol]:
        """To the first address that can be reached; each gets its share of the time that is left."""
        *others, last = self._names.in_turn(server.host)
        until_s = self._loop.time() + self._connect_s
        for index, address in enumerate(others):
            with contextlib.suppress(OSError):
                async with asyncio.timeout((until_s - self._loop.time()) / (len(others) + 1 - index)):
                    return await self._loop.create_connection(factory, address, server.port)
        return await self._loop.create_connection(factory, last, server.port)
