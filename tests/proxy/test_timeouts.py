"""What takes too long is answered and ended: heads, bodies and web servers, each by its own deadline."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import ExitStack

import pytest

from tests.daemon import Daemon
from tests.proxy.recording import Connection, Recording, answering
from tests.proxy.talking import Client, get, post
from tests.servers import wait_until

CONFIG = """
workers: 1
upstreams: {web: {servers: [{url}], keepalive_idle: 300ms}}
timeouts: {head: 300ms, body: 400ms, idle: 500ms, response: 300ms}
bounds: {buffer: 64KiB}
routes:
  - {match: {path: /streaming}, upstream: web, streaming: true}
  - {upstream: web}
"""

pytestmark = pytest.mark.timing


def stalls(connection: Connection, head: bytes) -> None:
    connection.read_body(head)
    connection.wait_closed()


class Between:
    """`with Between(0.3, 0.6):` what is inside takes that long, in seconds."""

    def __init__(self, least_s: float, most_s: float) -> None:
        self._bounds = least_s, most_s

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *error: object) -> None:
        least_s, most_s = self._bounds
        if error[0] is None:
            assert least_s <= time.monotonic() - self._began <= most_s


def test_a_slow_head_is_408(daemon: Daemon, upstream: Recording) -> None:
    with Client(daemon.port) as client, Between(0.3, 1.0):
        client.send(get()[:-1])
        answer = client.answer()
        assert (answer.status, answer.closes) == (408, True)
        assert client.is_closed()
    assert upstream.received == b""


def test_a_head_that_trickles_gains_no_time(daemon: Daemon, upstream: Recording) -> None:
    stop = threading.Event()
    with Client(daemon.port) as client, Between(0.3, 1.0):
        client.send(b"GET / HTTP/1.1\r\n")

        def trickle() -> None:
            while not stop.wait(0.05):
                try:
                    client.send(b"X: y\r\n")
                except OSError:
                    return

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            assert client.answer().status == 408
        finally:
            stop.set()
            thread.join()
    assert upstream.received == b""


def test_empty_lines_gain_no_time(daemon: Daemon) -> None:
    with Client(daemon.port) as client, Between(0.3, 1.0):
        client.send(b"\r\n\r\nG")
        assert client.answer().status == 408


def test_a_connection_without_a_request_ends(daemon: Daemon) -> None:
    with Client(daemon.port) as client, Between(0.3, 1.0):
        assert client.is_closed()


def test_an_idle_connection_ends(daemon: Daemon, upstream: Recording) -> None:
    with Client(daemon.port) as client:
        assert client.ask(get()).status == 200
        with Between(0.4, 1.2):
            assert client.is_closed()
    assert upstream.connections[0].ended.wait(5)


@pytest.mark.parametrize("kept", [False, True], ids=["new", "kept"])
def test_what_came_while_the_worker_stood_still_is_answered(
    daemon: Daemon, upstream: Recording, kept: bool
) -> None:
    """The deadlines of idle connections are over when it looks at them, and requests wait there."""
    upstream.script = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    (worker,) = daemon.workers()
    for _ in range(3):
        with ExitStack() as stack:
            clients = [stack.enter_context(Client(daemon.port)) for _ in range(5)]
            assert not kept or all(client.ask(get()).status == 200 for client in clients)
            time.sleep(0.4 if kept else 0.2)
            os.kill(worker, signal.SIGSTOP)
            time.sleep(0.06)  # a tick is due, before what they send
            for client in clients:
                client.send(get())
            time.sleep(0.15)
            os.kill(worker, signal.SIGCONT)
            assert [client.answer().status for client in clients] == [200] * 5


@pytest.mark.parametrize("size", [1_000, 100_000], ids=["buffered", "streamed"])
def test_a_slow_body_is_408(daemon: Daemon, upstream: Recording, size: int) -> None:
    upstream.script = answering()
    with Client(daemon.port) as client, Between(0.4, 1.2):
        client.send(post(bytes(size))[: -size // 2])
        answer = client.answer()
        assert (answer.status, answer.closes) == (408, True)
        assert client.is_closed()
    if size < 65_536:
        assert upstream.received == b""
    else:
        assert upstream.connections[0].ended.wait(5)


def test_a_body_that_moves_has_time(daemon: Daemon, upstream: Recording) -> None:
    body = bytes(160_000)
    request = post(body)
    pause = threading.Event()
    with Client(daemon.port) as client, Between(1.0, 4.0):
        client.send(request[: -len(body)])
        for at in range(0, len(body), 20_000):
            client.send(body[at : at + 20_000])
            pause.wait(0.15)
        assert client.answer().status == 200
    assert upstream.requests[0].endswith(body)


def test_a_slow_web_server_is_504(daemon: Daemon, upstream: Recording) -> None:
    upstream.script = stalls
    with Client(daemon.port) as client:
        for request in (get(), post(b"hello"), post(bytes(100_000))):
            with Between(0.3, 1.2):
                answer = client.ask(request)
            assert (answer.status, answer.closes) == (504, False)
    assert [connection.ended.wait(5) for connection in upstream.connections] == [True] * 3


def test_an_answer_that_stalls_is_cut(daemon: Daemon, upstream: Recording) -> None:
    def script(connection: Connection, head: bytes) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        stalls(connection, head)

    upstream.script = script
    with Client(daemon.port) as client:
        client.send(get())
        assert client.head().status == 200
        with Between(0.3, 1.2):
            assert client.rest() == b"hello"


def test_an_answer_of_a_streaming_route_may_idle(daemon: Daemon, upstream: Recording) -> None:
    def script(connection: Connection, head: bytes) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        if b"/streaming " in head:
            threading.Event().wait(1.2)
            connection.send(b"world")
        else:
            connection.wait_closed()

    upstream.script = script
    with Client(daemon.port) as client:
        assert client.ask(get("/streaming")).body == b"helloworld"
        client.send(get("/other"))
        assert client.head().status == 200
        with Between(0.3, 1.2):
            assert client.rest() == b"hello"


def test_slow_chunks_are_408(daemon: Daemon, upstream: Recording) -> None:
    with Client(daemon.port) as client, Between(0.4, 1.2):
        client.send(get("/", "Transfer-Encoding: chunked", method="POST") + b"5\r\nhel")
        answer = client.answer()
        assert (answer.status, answer.closes) == (408, True)
    assert upstream.connections[0].ended.wait(5)
    assert upstream.received.endswith(b"\r\n\r\n5\r\nhel")


@pytest.mark.parametrize("target", ["/", "/streaming"])
def test_a_client_that_takes_nothing_is_cut(daemon: Daemon, upstream: Recording, target: str) -> None:
    upstream.script = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 20000000\r\n\r\n", bytes(20_000_000))
    with Client(daemon.port, receive_buffer=4_096) as client:
        client.send(get(target, "Connection: close"))
        assert upstream.wait_requests(1)
        assert upstream.connections[0].ended.wait(5)


def expecting(*lines: str) -> bytes:
    """The head of an upload that waits to be asked for."""
    return get("/", "Expect: 100-continue", *(lines or ("Content-Length: 5",)), method="POST")


@pytest.mark.parametrize("line", ["Content-Length: 5", "Transfer-Encoding: chunked"])
def test_a_web_server_that_asks_for_no_body_is_504(daemon: Daemon, upstream: Recording, line: str) -> None:
    upstream.script = answering()
    with Client(daemon.port) as client, Between(0.3, 1.2):
        answer = client.ask(expecting(line))
        assert (answer.status, answer.closes) == (504, True)
    assert upstream.connections[0].ended.wait(5)


@pytest.mark.parametrize("interim", [b"102 Processing", b"103 Early Hints"])
def test_another_interim_answer_asks_for_no_body(daemon: Daemon, upstream: Recording, interim: bytes) -> None:
    def script(connection: Connection, head: bytes) -> None:
        connection.send(b"HTTP/1.1 " + interim + b"\r\n\r\n")
        stalls(connection, head)

    upstream.script = script
    with Client(daemon.port) as client, Between(0.3, 1.2):
        assert client.ask(expecting()).status == int(interim[:3])
        assert client.answer().status == 504


@pytest.mark.parametrize("asks", [True, False])
def test_a_body_that_was_asked_for_or_begun_must_come(
    daemon: Daemon, upstream: Recording, *, asks: bool
) -> None:
    def script(connection: Connection, head: bytes) -> None:
        if asks:
            connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        connection.read_body(head)

    upstream.script = script
    with Client(daemon.port) as client, Between(0.4, 1.4):
        client.send(expecting())
        if asks:
            assert client.answer().status == 100
        else:
            client.send(b"h")
        assert client.answer().status == 408


def test_a_body_that_is_late_but_in_time_is_taken(daemon: Daemon, upstream: Recording) -> None:
    with Client(daemon.port) as client:
        client.send(expecting())
        upstream.wait_requests(1)
        threading.Event().wait(0.15)
        assert client.ask(b"hello").status == 200
    assert upstream.requests[0].endswith(b"hello")


def test_a_client_that_takes_no_end_is_cut(daemon: Daemon, upstream: Recording) -> None:
    """The last answers are whole and wait for the client, which closes nothing and reads nothing."""
    upstream.script = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n" + bytes(20_000))
    before = daemon.metrics().total("ratelimitd_connections")
    with Client(daemon.port, receive_buffer=4_096) as client:
        client.send(get() * 400)  # 8 MB of answers, more than the system takes for a connection
        assert upstream.wait_requests(1)
        wait_until(
            lambda: daemon.metrics().total("ratelimitd_connections") <= before, "the connection ends", 5
        )


def test_outcomes(daemon: Daemon, upstream: Recording) -> None:
    upstream.script = stalls
    before = daemon.settled_metrics().total("ratelimitd_requests_total", outcome="timeout")
    with Client(daemon.port) as client:
        assert client.ask(get()).status == 504
        client.send(post(b"hello")[:-1])
        assert client.answer().status == 408
    assert daemon.settled_metrics().total("ratelimitd_requests_total", outcome="timeout") == before + 2
