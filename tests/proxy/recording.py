"""A web server that does exactly what a test says, byte by byte, and keeps every byte that it receives.

`script(connection, head)` is called with each request head and answers by what it sends; the test may change
it at any time. Each connection has a thread, so a script may simply wait.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from typing import Final, Self

from tests.servers import LOOPBACK, wait_until

TIMEOUT_S: Final = 10.0
OK: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Closed(Exception):
    """The other side has ended the connection."""


class Connection:
    """One connection from the daemon: what came over it, and how it is answered."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.received: Final = bytearray()
        self.requests: Final[list[bytes]] = []  # head and, where the script reads it, content
        self._used = 0
        self.ended: Final = threading.Event()
        sock.settimeout(TIMEOUT_S)

    def _receive(self) -> None:
        try:
            data = self.sock.recv(1 << 18)
        except OSError as error:
            raise Closed from error
        if not data:
            raise Closed
        self.received.extend(data)

    def read_head(self) -> bytes:
        while (end := self.received.find(b"\r\n\r\n", self._used)) < 0:
            self._receive()
        head = bytes(self.received[self._used : end + 4])
        self._used = end + 4
        self.requests.append(head)
        return head

    def read(self, size: int) -> bytes:
        body = self._next(size)
        self.requests[-1] += body
        return body

    def _next(self, size: int) -> bytes:
        while len(self.received) < self._used + size:
            self._receive()
        taken = bytes(memoryview(self.received)[self._used : self._used + size])
        self._used += size
        return taken

    def take(self, size: int) -> bytes:
        """As `read`, of what is too large to be kept."""
        while len(self.received) < self._used + size:
            self._receive()
        taken = bytes(self.received[self._used : self._used + size])
        del self.received[self._used : self._used + size]
        return taken

    def read_body(self, head: bytes) -> bytes:
        """The content, in whatever framing."""
        if b"\r\nTransfer-Encoding: chunked\r\n" in head:
            return self._read_chunks()
        length = re.search(rb"(?im)^content-length:[ \t]*(\d+)", head)
        return self.read(int(length[1])) if length else b""

    def _read_line(self) -> bytes:
        while (end := self.received.find(b"\r\n", self._used)) < 0:
            self._receive()
        line = bytes(self.received[self._used : end])
        self._used = end + 2
        return line

    def _read_chunks(self) -> bytes:
        """In the one spelling that the daemon writes: no zeros before, no extension, no trailer."""
        chunks = []
        while (line := self._read_line()) != b"0":
            assert re.fullmatch(rb"[1-9a-f][0-9a-f]*", line), line
            chunks.append(self._next(int(line, 16)))
            assert self._read_line() == b""
        assert self._read_line() == b""
        content = b"".join(chunks)
        self.requests[-1] += content
        return content

    def send(self, data: bytes) -> None:
        try:
            self.sock.sendall(data)
        except OSError as error:
            raise Closed from error

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        raise Closed

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()
        raise Closed

    def end(self) -> None:
        """Ends it from another thread, which its own one notices."""
        if not self.ended.is_set():
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)

    def wait_closed(self) -> None:
        """Returns when the daemon has closed its side; fails when it sends more instead."""
        had = len(self.received)
        with contextlib.suppress(Closed):
            self._receive()
        assert len(self.received) == had, bytes(self.received[had:])


Script = Callable[[Connection, bytes], None]


def answer_ok(connection: Connection, head: bytes) -> None:
    connection.read_body(head)
    connection.send(OK)


def answering(*parts: bytes) -> Script:
    """A script that reads the request and sends these bytes."""

    def script(connection: Connection, head: bytes) -> None:
        connection.read_body(head)
        for part in parts:
            connection.send(part)

    return script


def answering_then_closing(*parts: bytes) -> Script:
    def script(connection: Connection, head: bytes) -> None:
        answering(*parts)(connection, head)
        connection.close()

    return script


class Recording:
    """The server; `connections` are those that came since the last `clear`. With `tls` it speaks that."""

    def __init__(
        self, *, segment: int = 0, receive_buffer: int = 0, tls: ssl.SSLContext | None = None
    ) -> None:
        self.tls = tls
        self._listener = socket.create_server((LOOPBACK, 0))
        if segment:
            self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, segment)
        if receive_buffer:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.port: Final[int] = self._listener.getsockname()[1]
        self.connections: list[Connection] = []
        self.script: Script = answer_ok
        self.greet: Callable[[Connection], None] | None = None
        self._all: list[Connection] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop_connections()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection = Connection(sock)
                self._all.append(connection)
                self.connections.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: Connection) -> None:
        try:
            if self.tls is not None:
                connection.sock = self.tls.wrap_socket(
                    connection.sock, server_side=True, do_handshake_on_connect=False
                )
                connection.sock.do_handshake()  # on what `drop_connections` can end
            with contextlib.suppress(Closed), connection.sock:
                if self.greet is not None:
                    self.greet(connection)
                while True:
                    head = connection.read_head()
                    self.script(connection, head)
        except ssl.SSLError:
            connection.sock.close()  # the handshake failed
        finally:
            connection.ended.set()

    def drop_connections(self) -> None:
        """Ends every connection, so that the next request needs a new one; those too that the daemon opens
        for requests that it repeats."""
        for connection in list(self._all):
            connection.end()
        while self._all:
            connection = self._all.pop()
            connection.end()
            assert connection.ended.wait(TIMEOUT_S)

    def clear(self) -> None:
        """A fresh start for a test: no connection, no request, the plain script."""
        self.drop_connections()
        self.connections = []
        self.script = answer_ok
        self.greet = None

    @property
    def received(self) -> bytes:
        """Every byte of every connection."""
        return b"".join(bytes(connection.received) for connection in self.connections)

    @property
    def requests(self) -> list[bytes]:
        return [request for connection in self.connections for request in connection.requests]

    def wait_requests(self, count: int) -> list[bytes]:
        wait_until(lambda: len(self.requests) >= count, f"{count} requests came")
        return self.requests


def fields(head: bytes) -> list[tuple[str, str]]:
    """The fields of a head, names in lower case."""
    lines = head.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
    return [(name.lower(), value.strip(" \t")) for name, _, value in (line.partition(":") for line in lines)]


def values(head: bytes, name: str) -> list[str]:
    return [value for other, value in fields(head) if other == name]
