"""Opening a connection to a web server, TLS handshake included: the slow path, in time or not at all.

Whatever goes wrong (refused, no such name, a certificate that is not trusted, too slow) is an OSError for the
caller; nothing of the request has been sent then. Time in which the worker's own loop stands still does not
count: a server is not too slow because nobody looked at what it answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Final

from ratelimitd.proxy.tls import TlsConnector
from ratelimitd.proxy.tls_context import server_name, towards_servers

if TYPE_CHECKING:
    import ssl

    from ratelimitd.config.model import Server, Upstream
    from ratelimitd.proxy.names import Names
    from ratelimitd.proxy.unreached import Unreached

Factory = Callable[[], asyncio.BaseProtocol]
Opened = tuple[asyncio.BaseTransport, asyncio.BaseProtocol]


# This machine has too little of something: no fault of the server that was to be reached.
SHORTAGES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})

_PARTS: Final = 10


@contextlib.asynccontextmanager
async def within(loop: asyncio.AbstractEventLoop, seconds: float) -> AsyncIterator[None]:
    """`asyncio.timeout` in parts, one begun when the one before is seen to be over: a loop that stands still
    for long uses up one of them. A full loop runs its timers before the sockets that became ready."""
    async with asyncio.timeout(None) as bound:
        timer: asyncio.TimerHandle

        def begin_part(left: int) -> None:
            nonlocal timer
            if left:
                timer = loop.call_later(seconds / _PARTS, begin_part, left - 1)
            else:
                bound.reschedule(loop.time())

        begin_part(_PARTS)
        try:
            yield
        finally:
            timer.cancel()


class Dialer:
    """Connects to the servers of one upstream, which `names` finds; what fails is noted in `unreached`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        connect_ms: int,
        upstream: Upstream,
        unreached: Unreached,
        names: Names,
    ) -> None:
        self._loop = loop
        self._connect_s = connect_ms / 1000
        self._upstream = upstream
        self._unreached = unreached
        self._names = names
        self._context = towards_servers(upstream.tls) if any(s.tls for s in upstream.servers) else None
        self._sessions: dict[str, ssl.SSLSession] = {}

    async def __call__(self, server: Server, factory: Factory) -> Opened:
        """An open connection with the protocol of `factory`. Raises OSError, TimeoutError among them."""
        try:
            async with within(self._loop, self._connect_s):
                if server.tls and self._context is not None:
                    return await self._open_tls(self._context, server, factory)
                return await self._open(server, factory)
        except OSError as error:
            self._unreached.note(self._upstream.name, server.url, error)
            raise

    async def _open(self, server: Server, factory: Factory) -> Opened:
        if server.unix_path:
            return await self._loop.create_unix_connection(factory, server.unix_path)
        return await self._connect(server, factory)

    async def _open_tls(self, context: ssl.SSLContext, server: Server, factory: Factory) -> Opened:
        established = self._loop.create_future()
        app = factory()
        tls = TlsConnector(
            context, app, server_name(server, self._upstream.tls), established, self._sessions, server.url
        )
        await self._open(server, lambda: tls)
        try:
            await established
        except asyncio.CancelledError:
            tls.abort()
            raise
        return tls, app

    async def _connect(self, server: Server, factory: Factory) -> Opened:
        """To the first address that can be reached; each gets its share of the time that is left."""
        *others, last = self._names.in_turn(server.host)
        until_s = self._loop.time() + self._connect_s
        for index, address in enumerate(others):
            with contextlib.suppress(OSError):
                left_s = max(0.0, until_s - self._loop.time())
                async with within(self._loop, left_s / (len(others) + 1 - index)):
                    return await self._loop.create_connection(factory, address, server.port)
        return await self._loop.create_connection(factory, last, server.port)
