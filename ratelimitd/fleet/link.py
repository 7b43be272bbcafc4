"""One connection to a server of the store: calls are queued, written in one go, answered in order.

Promises: nothing is ever sent twice; an answer reaches the token of its call; a connection that breaks, or
that answers what is no reply, is lost once and for all, and the owner of what was under way is told once.
`wire` has what each call costs, hiredis the rest of the protocol. Opening one (dialling, TLS, the password)
is the slow path, in time or a StoreFault; there is no Task, Future or timer for a call.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
import ssl
from typing import TYPE_CHECKING, Any, Self, cast

import hiredis

from ratelimitd.errors import StoreFault
from ratelimitd.fleet.refusals import meaning
from ratelimitd.fleet.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from ratelimitd.fleet.topology_values import Credentials, StoreServer

    Answered = Callable[[Any, Any], None]
    Lost = Callable[[StoreFault], None]


class Link(Wire, asyncio.Protocol):
    """`answered(token, reply)` for each call, an error of the server as a `hiredis.ReplyError`; `lost(fault)`
    when an open link has ended by itself."""

    def __init__(self, server: StoreServer, answered: Answered) -> None:
        self._server = server
        self._answered = answered
        self._lost: Lost = _nobody
        self._reader = hiredis.Reader()
        self._transport: asyncio.Transport | None = None
        self._fault: StoreFault | None = None  # why it has ended

    @classmethod
    async def open(
        cls,
        loop: asyncio.AbstractEventLoop,
        server: StoreServer,
        credentials: Credentials,
        answered: Answered,
        lost: Lost,
        within_s: float,
    ) -> Self:
        """A link that may be called; StoreFault says what is wrong and what to do."""
        link = cls(server, answered)
        try:
            async with asyncio.timeout(within_s):
                await link._dial(loop, credentials)
                await link._greet(loop, credentials)
        except TimeoutError:
            hint = (
                ", and did not begin with TLS: is this its tls-port?"
                if credentials.tls and link._transport is None
                else ""
            )
            link.close()
            raise StoreFault(f"the store at {server} did not answer within {within_s:g} s{hint}") from None
        except BaseException:
            link.close()
            raise
        if link._fault is not None:  # it has ended since it answered
            raise link._fault
        link._lost = lost
        return link

    @property
    def is_open(self) -> bool:
        return self._fault is None

    async def ask(self, loop: asyncio.AbstractEventLoop, *command: str | bytes) -> Any:
        """One call whose answer is waited for, for what is rare; an error in it is a StoreFault."""
        if self._fault is not None:
            raise self._fault
        answer: asyncio.Future[Any] = loop.create_future()
        self.call(hiredis.pack_command(cast("Any", command)), answer)
        self.flush()
        reply = await answer
        if isinstance(reply, hiredis.ReplyError):
            raise StoreFault(f"the store at {self._server} {meaning(reply)}")
        return reply

    def close(self) -> None:
        """Ends it; `lost` is not told."""
        self._lost = _nobody
        self._end(StoreFault(f"the connection to the store at {self._server} was closed"))

    async def _dial(self, loop: asyncio.AbstractEventLoop, credentials: Credentials) -> None:
        server = self._server
        context = _context(credentials.ca_file) if credentials.tls else None
        name = server.host or None if context else None
        try:
            if server.path:
                await loop.create_unix_connection(lambda: self, server.path)
            else:
                await loop.create_connection(
                    lambda: self, server.host, server.port, ssl=context, server_hostname=name
                )
        except ssl.SSLCertVerificationError as error:
            raise StoreFault(
                f"the store at {server} shows a certificate that is not trusted ({error.verify_message}): "
                "name its authority in store_options.ca_file, and the server as its certificate does"
            ) from None
        except ssl.SSLError as error:
            raise StoreFault(
                f"the store at {server} does not speak TLS with us ({_words(error)}): is this its tls-port?"
            ) from None
        except TimeoutError:
            raise
        except OSError as error:
            raise StoreFault(f"the store at {server} cannot be reached: {_words(error)}") from None

    async def _greet(self, loop: asyncio.AbstractEventLoop, credentials: Credentials) -> None:
        if credentials.password:
            user = (credentials.username,) if credentials.username else ()
            await self.ask(loop, "AUTH", *user, credentials.password)
        if credentials.database:
            await self.ask(loop, "SELECT", str(credentials.database))
        await self.ask(loop, "PING")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.write = self._transport.write
        connection = transport.get_extra_info("socket")
        if connection is not None and connection.family != socket.AF_UNIX:
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._fault is not None:  # closed while it was dialled
            self._transport.abort()

    def take_rest(self, data: bytes) -> None:
        """Reads what is not just numbers, or not whole."""
        reader = self._reader
        reader.feed(data)
        self.in_pieces = True
        while self.in_pieces and self._fault is None:
            try:
                reply = reader.gets()
            except hiredis.ProtocolError as error:
                return self._end(StoreFault(f"the store at {self._server} answers what is no Redis: {error}"))
            if reply is False:
                return None
            if not self.tokens:
                words = (
                    meaning(reply) if isinstance(reply, hiredis.ReplyError) else "answers without being asked"
                )
                return self._end(StoreFault(f"the store at {self._server} {words}"))
            self.in_pieces = reader.has_data()
            self.deliver(self.tokens.popleft(), reply)
        return None

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = self.write = None
        why = f": {_words(error)}" if isinstance(error, OSError) else ""
        if not self.is_greeted:
            why += " before it answered anything; if it speaks TLS there, write rediss://"
        self._end(StoreFault(f"the store at {self._server} ended the connection{why}"))

    def deliver(self, token: Any, reply: Any) -> None:
        if not isinstance(token, asyncio.Future):
            self._answered(token, reply)
        elif not token.done():
            token.set_result(reply)

    def _end(self, fault: StoreFault) -> None:
        if self._fault is not None:
            return
        self._fault = fault
        self.is_over = True
        tokens = [token for token in self.tokens if isinstance(token, asyncio.Future) and not token.done()]
        self.tokens.clear()
        self.commands.clear()
        transport, self._transport, self.write = self._transport, None, None
        if transport is not None:
            transport.abort()
        for token in tokens:
            token.set_exception(fault)
        self._lost(fault)


def _context(ca_file: str) -> ssl.SSLContext:
    """Trusts the authorities in `ca_file`, or the system's; TLS 1.2 or newer."""
    try:
        return _read_context(ca_file, os.stat(ca_file).st_mtime_ns if ca_file else 0)
    except OSError as error:
        raise StoreFault(
            f"store_options.ca_file: the authorities in {ca_file} cannot be used: {_words(error)}"
        ) from None


@functools.lru_cache(maxsize=1)
def _read_context(ca_file: str, _modified_ns: int) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca_file or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _words(error: OSError) -> str:
    """Why, without numbers and addresses."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    if isinstance(error, socket.gaierror):
        return (error.strerror or str(error)).lower()
    return os.strerror(error.errno).lower() if error.errno else str(error)


def _nobody(_: StoreFault) -> None:
    """Whoever closes a link need not be told."""
