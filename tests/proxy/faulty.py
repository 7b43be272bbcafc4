"""A web server that fails as it is told to, at the point of the exchange that it is told.

A request says it in its target, `/LANE/NUMBER/FRAMING/POINT/FAULT`, so that any number of exchanges go on
side by side and one server serves them all. Every byte of an answer belongs to a mark with the number of its
request: a client that finds another number in what it got has been given somebody else's bytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Final

from tests.proxy.recording import Closed, Connection

WAIT_S: Final = 20.0
OK: Final = b"HTTP/1.1 200 OK\r\n"


@dataclasses.dataclass(frozen=True)
class Order:
    """What a request asks the server to do wrong, and where."""

    number: int
    framing: str  # of the answer: length, chunked, close
    point: str
    fault: str
    lane: str = "web"

    @property
    def target(self) -> str:
        return f"/{self.lane}/{self.number}/{self.framing}/{self.point}/{self.fault}"

    @classmethod
    def of(cls, head: bytes) -> Order:
        lane, number, framing, point, fault = head.split(b" ", 2)[1].decode().strip("/").split("/")
        return cls(int(number), framing, point, fault, lane)

    @property
    def body(self) -> bytes:
        """What the right answer contains."""
        return b"<%d>" % self.number * 16

    @property
    def poison(self) -> bytes:
        """What a wrong one does."""
        return b"poison" + b"<%d>" % self.number * 40


def stages(order: Order) -> list[tuple[str, bytes]]:
    """The right answer in pieces, each with the name of the point behind it."""
    body, half = order.body, len(order.body) // 2 + 1
    framing = {
        "length": b"Content-Length: %d" % len(body),
        "chunked": b"Transfer-Encoding: chunked",
        "close": b"Connection: close",
    }[order.framing]
    head = [
        ("request", b""),
        ("status-line", b"HTTP/1.1 2"),
        ("head", b"00 OK\r\n%b\r\nX-He" % framing),
        ("head-end", b"ad: x\r\n\r"),
        ("body-start", b"\n"),
    ]
    if order.framing != "chunked":
        return [*head, ("body", body[:half]), ("end", body[half:])]
    return [
        *head,
        ("chunk-size", b"%x" % half),
        ("chunk-line", b";name=value\r"),
        ("chunk-data", b"\n" + body[: half - 1]),
        ("chunk-end", body[half - 1 : half]),
        ("between-chunks", b"\r\n"),
        ("last-chunk", b"%x\r\n%b\r\n0" % (len(body) - half, body[half:])),
        ("trailers", b"\r\nX-Trailer: y"),
        ("trailers-end", b"\r\n\r"),
        ("end", b"\n"),
    ]


def pieces(order: Order) -> list[tuple[str, bytes]]:
    """Those up to the point where it fails."""
    all_of_it = stages(order)
    last = [point for point, _ in all_of_it].index(order.point)
    return all_of_it[: last + 1]


# What babbles: bytes that have no place where they come, or a place that they should not have.
BABBLE: Final[dict[str, Callable[[Order], bytes]]] = {
    "garbage": lambda order: b"\0\xff" + order.poison + b"\r\n\r\n",
    "second": lambda order: (
        OK + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(order.poison) + order.poison
    ),
    "interims": lambda _: b"HTTP/1.1 100 Continue\r\n\r\n" * 17,
    "switching": lambda _: b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "framed-twice": lambda _: OK + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two-lengths": lambda order: OK + b"Content-Length: 3\r\nContent-Length: 6\r\n\r\n" + order.poison,
    "bad-chunk": lambda order: OK + b"Transfer-Encoding: chunked\r\n\r\nx" + order.poison,
}


class Faulty:
    """The scripts of the server, and what its clients tell it: that they see a head, that they are done."""

    def __init__(self) -> None:
        self.sees_head: Final[dict[int, threading.Event]] = defaultdict(threading.Event)
        self.is_over: Final[dict[int, threading.Event]] = defaultdict(threading.Event)

    def serve(self, connection: Connection, head: bytes) -> None:
        """Reads the request and answers, up to the point of the fault."""
        order = Order.of(head)
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
        if order.point == "request-head-end":
            self._fail(connection, order)
        connection.read(length // 2)
        if order.point == "request-body":
            self._fail(connection, order)
        connection.read(length - length // 2)
        self._answer(connection, order)

    def _answer(self, connection: Connection, order: Order) -> None:
        if order.fault.endswith("-at-once"):
            self._fail(connection, order, b"".join(piece for _, piece in pieces(order)))
        for point, piece in pieces(order):
            connection.send(piece)
            if point == "body-start" and order.fault != "none":
                assert self.sees_head[order.number].wait(WAIT_S), order.target
        self._fail(connection, order)

    def greet(self, fault: str) -> Callable[[Connection], None]:
        """For a server that fails before it knows what it is asked."""
        order = Order(0, "length", "accept", fault)
        return lambda connection: self._fail(connection, order)

    def greet_partial(self, connection: Connection) -> None:
        """Fails when it has read ten bytes of the head; what was asked is only looked at."""
        head = b""
        while b"\r\n" not in head:
            head = connection.sock.recv(1 << 16, socket.MSG_PEEK)
        connection.sock.recv(10)
        self._fail(connection, Order.of(head))

    def _fail(self, connection: Connection, order: Order, before: bytes = b"") -> None:
        """Commits the fault; what is to come right before it goes out in one with it."""
        fault = order.fault.removesuffix("-at-once")
        if fault == "none":
            if order.framing == "close":
                connection.close()
            return
        connection.send(before + (BABBLE[fault](order) if fault in BABBLE else b""))
        if fault == "reset":
            connection.reset()
        if fault == "finish":
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_WR)
        # Nothing more is said or read until the client has its answer; then the daemon must have closed.
        if order.number:
            self.is_over[order.number].wait(WAIT_S)
        with contextlib.suppress(OSError):
            while connection.sock.recv(1 << 16):
                pass
        raise Closed
