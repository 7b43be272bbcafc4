"""Faults of a kept connection, between two requests and at the moment of its next use: the next client gets a
right answer, or an error where the web server may have done what it was asked."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable

import pytest

from tests.daemon import Daemon
from tests.proxy.recording import OK, Connection, Recording, answer_ok
from tests.proxy.talking import Client, get, post

POISON = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"


def reset(connection: Connection) -> None:
    """By the thread of the connection, which this wakes: as long as it waits, the system closes nothing."""
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.sock.shutdown(socket.SHUT_RD)


def finish(connection: Connection) -> None:
    """Ends its own side; the daemon then ends the other one."""
    connection.sock.shutdown(socket.SHUT_WR)


def sending(data: bytes) -> Callable[[Connection], None]:
    return lambda connection: connection.send(data)


@pytest.mark.parametrize("request_", [get("/2"), post(b"hello", target="/2")], ids=["get", "post"])
@pytest.mark.parametrize(
    "fault",
    [reset, finish, sending(b"\0garbage"), sending(POISON), sending(OK[:10])],
    ids=["reset", "finish", "garbage", "answer", "part-of-an-answer"],
)
def test_between_two_requests(
    daemon: Daemon, upstream: Recording, fault: Callable[[Connection], None], request_: bytes
) -> None:
    for _ in range(20):
        upstream.clear()
        with Client(daemon.port) as first, Client(daemon.port) as second:
            assert first.ask(get("/1")).body == b"ok"
            (kept,) = upstream.connections
            fault(kept)
            assert kept.ended.wait(5)
            assert second.ask(request_).body == b"ok"
        assert [request.split(b" ")[1] for request in upstream.requests] == [b"/1", b"/2"]
        assert len(upstream.connections) == 2


NEXT = {
    # fault: (status of the next GET, status of the next POST)
    "reset": (200, 502),
    "finish": (200, 502),
    "garbage": (502, 502),
    "part-of-an-answer": (502, 502),
}


@pytest.mark.parametrize("fault", NEXT)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_at_the_moment_of_its_next_use(daemon: Daemon, upstream: Recording, fault: str, method: str) -> None:
    def script(connection: Connection, head: bytes) -> None:
        answer_ok(connection, head)
        if len(upstream.connections) > 1:
            return
        connection.sock.recv(10)
        if fault == "reset":
            connection.reset()
        elif fault != "finish":
            connection.send({"garbage": b"\0garbage\r\n\r\n", "part-of-an-answer": OK[:10]}[fault])
        finish(connection)
        with contextlib.suppress(OSError):
            while connection.sock.recv(65536):
                pass

    upstream.script = script
    with Client(daemon.port) as first, Client(daemon.port) as second:
        assert first.ask(get("/1")).body == b"ok"
        answer = second.ask(get("/2") if method == "GET" else post(b"hello", target="/2"))
        assert answer.status == NEXT[fault][method == "POST"]
        assert b"ok" in answer.body or answer.status == 502
        assert first.ask(get("/3")).body == b"ok"
