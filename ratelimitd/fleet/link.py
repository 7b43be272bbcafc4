"""One connection to a server of the store: calls are queued, written in one go, answered in order.

Promises: nothing is ever sent twice; an answer reaches the token of its call; a connection that breaks, or
that answers what is no reply, is lost once and for all, and the owner of what was under way is told once.
hiredis has the protocol. Opening one (dialling, TLS, the password) is the slow path, in time or a
StoreFault.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections import deque
from typing import TYPE_CHECKING, Any, Self, cast

import hiredis

from ratelimitd.errors import StoreFault

if TYPE_CHECKING:
    from collections.abc import Callable

    from ratelimitd.fleet.topology_values import Credentials, StoreServer

    Answered = Callable[[Any, Any], None]


class Link(asyncio.Protocol):
    """`answered(token, reply)` for each call, errors as `hiredis.ReplyError`; `lost(fault)` at the end."""

    def __init__(self, server: StoreServer, answered: Answered, lost: Callable[[StoreFault], None]) -> None:
        self._server = server
        self._answered = answered
        self._lost = lost
        self._reader = hiredis.Reader()
        self._tokens: deque[Any] = deque()
        self._commands: list[bytes] = []
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def open(
        cls,
        loop: asyncio.AbstractEventLoop,
        server: StoreServer,
        credentials: Credentials,
        answered: Answered,
        lost: Callable[[StoreFault], None],
        within_s: float,
    ) -> Self:
        """A link that may be called; StoreFault says what is wrong and what to do."""
        link = cls(server, answered, lost)
        try:
            async with asyncio.timeout(within_s):
                await link._dial(loop, credentials)
                await link._greet(loop, credentials)
        except TimeoutError:
            link.close()
            raise StoreFault(f"the store at {server} did not answer within {within_s:g} s") from None
        except ssl.SSLCertVerificationError as error:
            link.close()
            raise StoreFault(
                f"the store at {server} shows a certificate that is not trusted ({error.verify_message}): "
                "name its authority in store_options.ca_file"
            ) from None
        except OSError as error:
            link.close()
            raise StoreFault(f"the store at {server} cannot be reached: {error.strerror or error}") from None
        except BaseException:
            link.close()
            raise
        return link

    async def _dial(self, loop: asyncio.AbstractEventLoop, credentials: Credentials) -> None:
        context = None
        if credentials.tls:
            context = ssl.create_default_context(cafile=credentials.ca_file or None)
        name = self._server.host if context else None
        if self._server.path:
            await loop.create_unix_connection(lambda: self, self._server.path, ssl=context)
        else:
            await loop.create_connection(
                lambda: self, self._server.host, self._server.port, ssl=context, server_hostname=name
            )

    async def _greet(self, loop: asyncio.AbstractEventLoop, credentials: Credentials) -> None:
        if credentials.password:
            user = (credentials.username,) if credentials.username else ()
            await self.ask(loop, "AUTH", *user, credentials.password)
        if credentials.database:
            await self.ask(loop, "SELECT", str(credentials.database))
        await self.ask(loop, "PING")

    async def ask(self, loop: asyncio.AbstractEventLoop, *command: str | bytes) -> Any:
        """One call whose answer is waited for; an error in it is a StoreFault. For what is rare."""
        answer: asyncio.Future[Any] = loop.create_future()
        self.call(hiredis.pack_command(cast("Any", command)), answer)
        self.flush()
        reply = await answer
        if isinstance(reply, hiredis.ReplyError):
            raise StoreFault(_said(self._server, str(command[0]), str(reply)))
        return reply

    def call(self, command: bytes, token: Any) -> None:
        """Queues a packed command; it is written by `flush`."""
        self._commands.append(command)
        self._tokens.append(token)

    def flush(self) -> None:
        """Writes what was queued, at once."""
        if self._commands and self._transport is not None:
            self._transport.write(b"".join(self._commands))
        self._commands.clear()

    def close(self) -> None:
        """Ends it; nobody is told."""
        self._lost = _nobody
        if self._transport is not None:
            self._transport.abort()

    @property
    def pending(self) -> int:
        """Calls that were not answered."""
        return len(self._tokens)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        connection = transport.get_extra_info("socket")
        if connection is not None and connection.family != socket.AF_UNIX:
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        reader.feed(data)
        try:
            while True:
                reply = reader.gets()
                if reply is False:
                    return
                self._deliver(reply)
        except (hiredis.ProtocolError, IndexError):
            self._end(StoreFault(f"the store at {self._server} answered what is no reply of Redis"))

    def _deliver(self, reply: Any) -> None:
        token = self._tokens.popleft()
        if isinstance(token, asyncio.Future):
            if not token.done():
                token.set_result(reply)
        else:
            self._answered(token, reply)

    def connection_lost(self, error: Exception | None) -> None:
        why = f": {error}" if error else ""
        self._end(StoreFault(f"the store at {self._server} ended the connection{why}"))

    def _end(self, fault: StoreFault) -> None:
        lost, self._lost = self._lost, _nobody
        transport, self._transport = self._transport, None
        for token in self._tokens:
            if isinstance(token, asyncio.Future) and not token.done():
                token.set_exception(fault)
        self._tokens.clear()
        self._commands.clear()
        if transport is not None:
            transport.abort()
        lost(fault)


def _nobody(_: StoreFault) -> None:
    """Who closed it himself needs not be told."""


def _said(server: StoreServer, command: str, reply: str) -> str:
    """What an error of the server means, and what to do."""
    kind = reply.partition(" ")[0]
    if kind in ("WRONGPASS", "NOAUTH") or "invalid password" in reply or "without any password" in reply:
        return (
            f"the store at {server} refuses the user or password: see store_options.password_file ({reply})"
        )
    if kind == "NOPERM":
        return f"the store's user may not do what is needed: docs/fleet.md has its ACL ({reply})"
    return f"the store at {server} refuses {command}: {reply}"
