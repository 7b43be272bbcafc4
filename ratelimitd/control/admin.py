"""The admin HTTP server: pages to read and changes to ask for, on an address of their own.

It is built to be small, not fast: one request a connection, heads of at most 16 KiB within 5 s, bodies of at
most 64 KiB, 64 connections. Over TCP the Host must be the bound address or localhost, or else a page in
somebody's browser could reach us through a name that it made to point here (DNS rebinding), and changes need
the token. The Unix socket has mode 0660: who may open it may do everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hmac
import logging
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from ratelimitd.control.admin_request import FORM, MAX_HEAD, Refused, Request, host_name, read
from ratelimitd.control.answers import Problem
from ratelimitd.control.listening import UnixSocket, open_tcp
from ratelimitd.errors import RatelimitdError, StartError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from ratelimitd.config.model import Admin

logger = logging.getLogger(__name__)

_LINGER_S: Final = 1
_WORK_S: Final = 120  # a reload reads a file, and asks every worker
_ANSWER_S: Final = 10
_MAX_CONNECTIONS: Final = 64
_SOCKET_MODE: Final = 0o660
_TEXT: Final = "text/plain; charset=utf-8"
_SHORTEST_TOKEN: Final = 16


@dataclasses.dataclass(frozen=True)
class Response:
    status: int
    body: bytes
    content_type: str = _TEXT
    fields: tuple[str, ...] = ()

    @classmethod
    def text(cls, status: int, message: str) -> Response:
        return cls(status, f"{message}\n".encode())

    @classmethod
    def json(cls, status: int, answer: msgspec.Struct) -> Response:
        return cls(status, msgspec.json.encode(answer) + b"\n", "application/json")


@dataclasses.dataclass(frozen=True)
class Page:
    """What answers at one path. `changes`: by POST alone, and only for those who may."""

    answer: Callable[[Request], Awaitable[Response]]
    changes: bool = False

    @property
    def methods(self) -> tuple[str, ...]:
        return ("POST",) if self.changes else ("GET", "HEAD")


@dataclasses.dataclass(frozen=True)
class Entrance:
    """How a client came in. `hosts`: what it may call us, None for the Unix socket; `token`: what a change
    needs over TCP, empty when nothing may be changed there."""

    hosts: frozenset[str] | None
    token: str


class AdminServer:
    """Serves `pages`."""

    def __init__(self, pages: Mapping[str, Page]) -> None:
        self._pages = pages
        self._servers: list[asyncio.Server] = []
        self._unix: list[UnixSocket] = []
        self._connections = 0
        self._bound = ""
        self._token = ""
        self.addresses: list[str] = []

    async def open(self, admin: Admin) -> None:
        """Listen where `admin` says. A default address that is in use is done without."""
        self._token = read_token(admin.token_file) if admin.token_file else ""
        if admin.port >= 0:
            try:
                await self._open_tcp(admin.host, admin.port)
            except StartError as error:
                if admin.required:
                    raise
                logger.warning("no admin server: %s; name another with --admin or `admin:`", error)
        if admin.socket:
            unix = UnixSocket(admin.socket, _SOCKET_MODE)
            self._unix.append(unix)
            self._servers.append(
                await asyncio.start_server(self._accept_unix, sock=unix.socket, limit=MAX_HEAD)
            )
            self.addresses.append(f"unix:{admin.socket}")

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        for unix in self._unix:
            unix.close()

    async def _open_tcp(self, host: str, port: int) -> None:
        (sock,) = open_tcp(host, port, 1)
        name = sock.getsockname()
        self._servers.append(await asyncio.start_server(self._accept_tcp, sock=sock, limit=MAX_HEAD))
        self.addresses.append(
            f"http://[{name[0]}]:{name[1]}" if ":" in name[0] else f"http://{name[0]}:{name[1]}"
        )
        self._bound = host

    async def _accept_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ours = writer.get_extra_info("sockname")[0]
        hosts = frozenset({"localhost", self._bound.lower(), ours})
        await self._serve(reader, writer, Entrance(hosts, self._token))

    async def _accept_unix(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._serve(reader, writer, Entrance(None, ""))

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, entrance: Entrance
    ) -> None:
        self._connections += 1
        try:
            if self._connections <= _MAX_CONNECTIONS:
                await self._exchange(reader, writer, entrance)
        except (OSError, TimeoutError):
            pass  # the other side is gone or does not read: there is nobody to tell
        except asyncio.CancelledError:
            pass  # the daemon ends; nobody waits for this task, and its end is no error
        finally:
            self._connections -= 1
            writer.close()

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, entrance: Entrance
    ) -> None:
        try:
            request = await read(reader)
        except Refused as refusal:
            head_only, response = False, Response.text(refusal.status, refusal.message)
        else:
            if request is None:
                return
            head_only, response = request.method == "HEAD", await self._answer(request, entrance)
        async with asyncio.timeout(_ANSWER_S):
            writer.write(_head(response) + (b"" if head_only else response.body))
            await writer.drain()
            # Closing with bytes unread would reset the connection, and the answer might be lost with it.
            writer.write_eof()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_S):
                while await reader.read(MAX_HEAD):
                    pass

    async def _answer(self, request: Request, entrance: Entrance) -> Response:
        refusal = self._refusal(request, entrance)
        if refusal is not None:
            return refusal
        try:
            async with asyncio.timeout(_WORK_S):
                return await self._pages[request.path].answer(request)
        except Refused as error:
            return problem(request, error.status, error.message)
        except RatelimitdError as error:
            return problem(request, 503, str(error))
        except TimeoutError:
            return problem(request, 503, f"this was not done within {_WORK_S} s; /api/status says what is")

    def _refusal(self, request: Request, entrance: Entrance) -> Response | None:
        """The answer to a request that is none for a page of ours, or that this client may not ask."""
        hosts = entrance.hosts
        if hosts is not None and host_name(request.headers.get("host", "")) not in hosts:
            return problem(request, 421, f"the Host must be one of: {', '.join(sorted(hosts))}")
        page = self._pages.get(request.path)
        if page is None:
            return problem(request, 404, "there are: " + " ".join(sorted(self._pages)))
        if request.method not in page.methods:
            methods = ", ".join(page.methods)
            refusal = problem(request, 405, f"{request.path} knows only {' and '.join(page.methods)}")
            return dataclasses.replace(refusal, fields=(f"Allow: {methods}",))
        if request.foreign_body:
            return problem(request, 415, f"a body here is {FORM}, with the parameters of the page")
        if page.changes and hosts is not None:
            return _token_refusal(request, entrance.token)
        return None


def _token_refusal(request: Request, token: str) -> Response | None:
    if not token:
        return problem(
            request,
            403,
            "nothing can be changed over TCP: use the Unix socket (admin.socket), or set admin.token_file",
        )
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode()):
        return None
    refusal = problem(request, 401, "a change over TCP needs `Authorization: Bearer TOKEN`, as in token_file")
    return dataclasses.replace(refusal, fields=('WWW-Authenticate: Bearer realm="ratelimitd"',))


def read_token(path: str) -> str:
    """The token in a file; StartError when it holds none."""
    try:
        token = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise StartError(f"the admin token in {path} cannot be read: {reason}") from None
    if len(token) < _SHORTEST_TOKEN or not token.isprintable() or " " in token:
        raise StartError(
            f"the admin token in {path} must be one word of at least {_SHORTEST_TOKEN} characters; "
            "make one with: head -c 24 /dev/urandom | base64"
        )
    return token


def problem(request: Request, status: int, message: str) -> Response:
    """A refusal: JSON for the pages that speak it."""
    if request.path.startswith("/api/"):
        return Response.json(status, Problem(message))
    return Response.text(status, message)


def _head(response: Response) -> bytes:
    fields = "".join(f"{field}\r\n" for field in response.fields)
    return (
        f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}\r\n"
        f"Date: {formatdate(usegmt=True)}\r\n"
        f"Content-Type: {response.content_type}\r\n"
        f"Content-Length: {len(response.body)}\r\n"
        f"{fields}"
        "Cache-Control: no-store\r\n"
        "X-Content-Type-Options: nosniff\r\n"
        "Connection: close\r\n\r\n"
    ).encode("latin-1")
