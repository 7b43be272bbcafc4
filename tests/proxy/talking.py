"""A client that writes the bytes it is told to and reads answers by the letter of RFC 9112."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
from types import TracebackType
from typing import Final, Self

from tests.servers import LOOPBACK

TIMEOUT_S: Final = 10.0


class Ended(AssertionError):
    """The connection ended before what was awaited had come."""


@dataclasses.dataclass(frozen=True)
class Answer:
    status: int
    fields: tuple[tuple[str, str], ...]  # names in lower case
    body: bytes  # as it came: a chunked one with its framing

    def values(self, name: str) -> list[str]:
        return [value for other, value in self.fields if other == name]

    def __getitem__(self, name: str) -> str:
        (value,) = self.values(name)
        return value

    @property
    def closes(self) -> bool:
        return "close" in self.values("connection")


class Client:
    """One connection to the daemon."""

    def __init__(self, port: int, source: str = LOOPBACK, receive_buffer: int = 0) -> None:
        self.sock = socket.socket()
        self.sock.settimeout(TIMEOUT_S)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.bind((source, 0))
        self.sock.connect((LOOPBACK, port))
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def send_bytes(self, data: bytes) -> None:
        """One byte in each segment; stops when the daemon has had enough."""
        with contextlib.suppress(OSError):
            for at in range(len(data)):
                self.sock.sendall(data[at : at + 1])

    def end(self) -> None:
        """Nothing more will be sent."""
        self.sock.shutdown(socket.SHUT_WR)

    def _more(self) -> bool:
        data = self.sock.recv(1 << 18)
        self._buffer += data
        return bool(data)

    @property
    def left(self) -> bytes:
        """What came and was not taken."""
        return self._buffer

    def _need_more(self) -> None:
        if not self._more():
            raise Ended(f"the connection ended behind {self._buffer!r}")

    def take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._need_more()
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def take_until(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            self._need_more()
        return self.take(self._buffer.index(mark) + len(mark))

    def rest(self) -> bytes:
        """All that comes until the daemon closes the connection."""
        while self._more():
            pass
        rest, self._buffer = self._buffer, b""
        return rest

    def is_closed(self) -> bool:
        """Waits for the end of the connection; False when something comes instead."""
        try:
            return not self._buffer and not self._more()
        except ConnectionResetError:
            return True

    def head(self) -> Answer:
        """The head of the next answer."""
        lines = self.take_until(b"\r\n\r\n").decode("latin-1").split("\r\n")[:-2]
        version, status, _ = lines[0].split(" ", 2)
        assert version == "HTTP/1.1"
        pairs = [line.partition(":") for line in lines[1:]]
        return Answer(int(status), tuple((name.lower(), value.strip(" \t")) for name, _, value in pairs), b"")

    def answer(self, *, head_only: bool = False) -> Answer:
        """The next answer, whole."""
        answer = self.head()
        if head_only or answer.status in (204, 304) or answer.status < 200:
            return answer
        if answer.values("transfer-encoding"):
            body = self.take_until(b"0\r\n\r\n")
        elif answer.values("content-length"):
            body = self.take(int(answer["content-length"]))
        else:
            body = self.rest()
        return dataclasses.replace(answer, body=body)

    def ask(self, data: bytes, *, head_only: bool = False) -> Answer:
        self.send(data)
        return self.answer(head_only=head_only)


def get(target: str = "/", *lines: str, method: str = "GET", version: str = "1.1") -> bytes:
    fields = "".join(f"{line}\r\n" for line in ("Host: a.example", *lines))
    return f"{method} {target} HTTP/{version}\r\n{fields}\r\n".encode("latin-1")


def post(body: bytes, *lines: str, target: str = "/form") -> bytes:
    return get(target, f"Content-Length: {len(body)}", *lines, method="POST") + body
