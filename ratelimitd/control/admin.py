"""The admin HTTP server: a few read-only pages on an address of their own, one request a connection.

It is built to be small, not fast: heads of at most 16 KiB within 5 s, 64 connections, no bodies. Over TCP
the Host must be the bound address or localhost, or else a page in somebody's browser could read us through a
name that it made to point here (DNS rebinding). The Unix socket has mode 0660.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ipaddress
import logging
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import httptools

from ratelimitd.control.listening import UnixSocket, open_tcp
from ratelimitd.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ratelimitd.config.model import Admin

logger = logging.getLogger(__name__)

_MAX_HEAD: Final = 16 * 1024
_HEAD_S: Final = 5
_LINGER_S: Final = 1
_ANSWER_S: Final = 10
_MAX_CONNECTIONS: Final = 64
_SOCKET_MODE: Final = 0o660
_TEXT: Final = "text/plain; charset=utf-8"


@dataclasses.dataclass(frozen=True)
class Request:
    """Names of headers are in lower case; values of one that came twice are joined by a comma."""

    method: str
    path: str
    headers: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Response:
    status: int
    body: bytes
    content_type: str = _TEXT

    @classmethod
    def text(cls, status: int, message: str) -> Response:
        return cls(status, f"{message}\n".encode())


class AdminServer:
    """Serves `pages`, each a function of the request."""

    def __init__(self, pages: Mapping[str, Callable[[Request], Response]]) -> None:
        self._pages = pages
        self._servers: list[asyncio.Server] = []
        self._unix: list[UnixSocket] = []
        self._connections = 0
        self._bound = ""
        self.addresses: list[str] = []

    async def open(self, admin: Admin) -> None:
        """Listen where `admin` says. A default address that is in use is done without."""
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
                await asyncio.start_server(self._accept_unix, sock=unix.socket, limit=_MAX_HEAD)
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
        self._servers.append(await asyncio.start_server(self._accept_tcp, sock=sock, limit=_MAX_HEAD))
        self.addresses.append(
            f"http://[{name[0]}]:{name[1]}" if ":" in name[0] else f"http://{name[0]}:{name[1]}"
        )
        self._bound = host

    async def _accept_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ours = writer.get_extra_info("sockname")[0]
        await self._serve(reader, writer, frozenset({"localhost", self._bound.lower(), ours}))

    async def _accept_unix(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._serve(reader, writer, None)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hosts: frozenset[str] | None
    ) -> None:
        self._connections += 1
        try:
            if self._connections <= _MAX_CONNECTIONS:
                async with asyncio.timeout(_HEAD_S + _ANSWER_S):
                    await self._exchange(reader, writer, hosts)
        except (OSError, TimeoutError):
            pass  # the other side is gone or does not read: there is nobody to tell
        except asyncio.CancelledError:
            pass  # the daemon ends; nobody waits for this task, and its end is no error
        finally:
            self._connections -= 1
            writer.close()

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hosts: frozenset[str] | None
    ) -> None:
        request = await _read(reader)
        if request is None:
            return
        response = request if isinstance(request, Response) else self._answer(request, hosts)
        head_only = isinstance(request, Request) and request.method == "HEAD"
        writer.write(_head(response) + (b"" if head_only else response.body))
        await writer.drain()
        # Closing with bytes unread would reset the connection, and the answer might be lost with it.
        writer.write_eof()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_S):
                while await reader.read(_MAX_HEAD):
                    pass

    def _answer(self, request: Request, hosts: frozenset[str] | None) -> Response:
        if hosts is not None and _host_name(request.headers.get("host", "")) not in hosts:
            return Response.text(421, f"the Host must be one of: {', '.join(sorted(hosts))}")
        page = self._pages.get(request.path)
        if page is None:
            return Response.text(404, "there are: " + " ".join(sorted(self._pages)))
        if request.method not in {"GET", "HEAD"}:
            return Response.text(405, "only GET and HEAD")
        return page(request)


async def _read(reader: asyncio.StreamReader) -> Request | Response | None:
    """A request, the refusal of what is none, or None when nobody spoke."""
    try:
        async with asyncio.timeout(_HEAD_S):
            head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    except asyncio.LimitOverrunError:
        return Response.text(431, f"the head has more than {_MAX_HEAD} bytes")
    except TimeoutError:
        return Response.text(408, f"no request within {_HEAD_S} s")
    collected = _Head()
    try:
        parser = httptools.HttpRequestParser(collected)
        parser.feed_data(head)
        path = httptools.parse_url(collected.target).path or b"/"
        return Request(parser.get_method().decode(), path.decode("ascii"), collected.headers)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade, UnicodeError):
        return Response.text(400, "not a request of HTTP/1.1")


class _Head:
    """What httptools calls back with."""

    def __init__(self) -> None:
        self.target = b""
        self.headers: dict[str, str] = {}

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        key, text = name.decode("ascii").lower(), value.decode("latin-1")
        self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text


def _host_name(host: str) -> str:
    """The name or address in a Host field: without port and brackets, lower case."""
    name = host.lower().strip()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name


def _head(response: Response) -> bytes:
    allow = "Allow: GET, HEAD\r\n" if response.status == HTTPStatus.METHOD_NOT_ALLOWED else ""
    return (
        f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}\r\n"
        f"Date: {formatdate(usegmt=True)}\r\n"
        f"Content-Type: {response.content_type}\r\n"
        f"Content-Length: {len(response.body)}\r\n"
        f"{allow}"
        "Cache-Control: no-store\r\n"
        "X-Content-Type-Options: nosniff\r\n"
        "Connection: close\r\n\r\n"
    ).encode("latin-1")
