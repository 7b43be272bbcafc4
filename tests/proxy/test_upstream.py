"""The web servers' side, through a running daemon: where answers end, what is no answer, and who is asked
again. No client ever gets a byte that was meant for another."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import Daemon
from tests.proxy.recording import (
    OK,
    Connection,
    Recording,
    answer_ok,
    answering,
    answering_then_closing,
    values,
)
from tests.proxy.talking import Client, get, post
from tests.servers import LOOPBACK, free_port

MIB = 1 << 20


def status(daemon: Daemon, request: bytes) -> int:
    with Client(daemon.port) as client:
        return client.ask(request).status


def pieces(data: bytes) -> list[list[bytes]]:
    """The data whole and byte by byte."""
    return [[data], [data[n : n + 1] for n in range(len(data))]]


@pytest.fixture
def second() -> Iterator[Recording]:
    with Recording() as server:
        yield server


def start(tmp_path: Path, servers: str, more: str = "") -> Daemon:
    configuration = tmp_path / "ratelimitd.yaml"
    configuration.write_text(
        f"workers: 1\nupstreams: {{web: {{servers: [{servers}], keepalive_idle: 1m{more}}}}}\n"
    )
    daemon = Daemon(tmp_path, ["-c", str(configuration)])
    daemon.wait_ready()
    return daemon


def stop(daemon: Daemon) -> None:
    try:
        daemon.finish()
    finally:
        daemon.stop()


# --- answers that are passed on


CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;a=b\r\nlo\r\n0\r\nX-Sum: 1\r\n\r\n"
)


def test_chunked_answers_are_passed_on_byte_for_byte(daemon: Daemon, upstream: Recording) -> None:
    for parts in pieces(CHUNKED):
        upstream.script = answering(*parts)
        with Client(daemon.port) as client:
            client.send(get("/1") + get("/2"))
            for _ in range(2):
                assert client.head()["transfer-encoding"] == "chunked"
                body = b"3\r\nhel\r\n2;a=b\r\nlo\r\n0\r\nX-Sum: 1\r\n\r\n"
                assert client.take(len(body)) == body
    assert len(upstream.connections) == 1


def test_an_answer_without_length_ends_with_its_connection(daemon: Daemon, upstream: Recording) -> None:
    for parts in pieces(b"HTTP/1.0 200 OK\r\nX: y\r\n\r\nhello"):
        upstream.script = answering_then_closing(*parts)
        with Client(daemon.port) as client:
            answer = client.ask(get())
            assert (answer.body, answer.closes) == (b"hello", True)


@pytest.mark.parametrize("size", [0, 1, 65_536, 10 * MIB])
def test_bodies_come_down_unchanged(daemon: Daemon, upstream: Recording, size: int) -> None:
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    upstream.script = answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size, body)
    with Client(daemon.port) as client:
        for _ in range(2):
            assert client.ask(get()).body == body
    assert len(upstream.connections) == 1


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n",
    ],
)
def test_answers_without_a_body(daemon: Daemon, upstream: Recording, head: bytes) -> None:
    for parts in pieces(head):
        upstream.script = answering(*parts)
        with Client(daemon.port) as client:
            for _ in range(3):
                answer = client.ask(get())
                assert (answer.status, answer.closes) == (int(head[9:12]), False)
    assert len(upstream.connections) == 1


@pytest.mark.parametrize("field", [b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_204_says_nothing_of_a_body(daemon: Daemon, upstream: Recording, field: bytes) -> None:
    upstream.script = answering(b"HTTP/1.1 204 No Content\r\n" + field + b"\r\n")
    with Client(daemon.port) as client:
        for _ in range(2):
            assert client.ask(get()).fields == ()


@pytest.mark.parametrize("framing", [b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b""])
def test_answers_to_head_end_with_their_head(daemon: Daemon, upstream: Recording, framing: bytes) -> None:
    upstream.script = answering(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n")
    with Client(daemon.port) as client:
        for _ in range(3):
            answer = client.ask(get(method="HEAD"), head_only=True)
            assert (answer.status, answer.closes) == (200, False)
    assert len(upstream.connections) == 1


def test_interim_answers_are_passed_on(daemon: Daemon, upstream: Recording) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Length: 5\r\nConnection: x\r\nX: y\r\n\r\n"
    for parts in pieces(hints + b"HTTP/1.1 102 Processing\r\n\r\n" + OK):
        upstream.script = answering(*parts)
        with Client(daemon.port) as client:
            client.send(get())
            interim = client.answer()
            assert (interim.status, interim.fields) == (103, (("link", "</a>"),))
            assert client.answer().status == 102
            assert client.answer().body == b"ok"


def test_an_answer_before_the_body_is_sent_is_passed_on_while_it_goes_up(
    daemon: Daemon, upstream: Recording
) -> None:
    def script(connection: Connection, head: bytes) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
        connection.read_body(head)
        connection.send(b"cd")

    upstream.script = script
    body = bytes(200_000)
    with Client(daemon.port) as client:
        request = post(body)
        client.send(request[:150_000])
        assert client.head().status == 200
        assert client.take(2) == b"ab"
        client.send(request[150_000:])
        assert client.take(2) == b"cd"
    assert upstream.requests[0].endswith(body)


# --- what is no answer


NO_ANSWERS = {
    "nothing": b"",
    "part-of-a-head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "interim-only": b"HTTP/1.1 100 Continue\r\n\r\n",
    "bare-lf": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "bare-lf-later": b"HTTP/1.1 200 OK\r\nContent-Length: 2\n\r\nok",
    "status-line": b"HTTP/1.1 OK\r\n\r\n",
    "http-0.9": b"<html>hello</html>\r\n\r\n",
    "http-2": b"HTTP/2.0 200 OK\r\n\r\n",
    "smtp": b"220 mail.example ESMTP\r\n\r\n",
    "both-framings": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two-lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    "signed-length": b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
    "other-coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
    "folded": b"HTTP/1.1 200 OK\r\nX: y\r\n z\r\nContent-Length: 2\r\n\r\nok",
    "space-before-colon": b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok",
    "nul": b"HTTP/1.1 200 OK\r\nX: \0\r\nContent-Length: 2\r\n\r\nok",
    "101": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "too-large": b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 70_000 + b"\r\n\r\n",
    "too-many-fields": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 300 + b"\r\n",
    "too-many-interims": b"HTTP/1.1 102 Processing\r\n\r\n" * 20,
    "no-chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nhello\r\n",
}


@pytest.mark.parametrize("data", NO_ANSWERS.values(), ids=NO_ANSWERS.keys())
def test_no_answer_is_502_and_not_tried_again(daemon: Daemon, upstream: Recording, data: bytes) -> None:
    with Client(daemon.port) as client:
        assert client.ask(get("/warm")).status == 200  # so that the connection is a kept one
        upstream.script = answering_then_closing(data)
        if not data:  # a kept connection that was closed: the one case in which the request is sent again
            upstream.drop_connections()
        client.send(get("/x"))
        answer = client.answer()
        while answer.status < 200:
            answer = client.answer()
        assert answer.status == 502
        assert not answer.closes
        upstream.script = answer_ok
        assert client.ask(get("/after")).body == b"ok"
    assert sum(request.startswith(b"GET /x ") for request in upstream.requests) == 1


CUT = {
    "length": (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", b"hello"),
    "chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"a\r\nhello"),
    "last-chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"5\r\nhello\r\n"),
    "bad-chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"5\r\nhello!!5\r\n"),
}


@pytest.mark.parametrize(("head", "body"), CUT.values(), ids=CUT.keys())
def test_an_answer_cut_in_its_body_ends_the_clients_connection(
    daemon: Daemon, upstream: Recording, head: bytes, body: bytes
) -> None:
    go_on = threading.Event()

    def script(connection: Connection, _: bytes) -> None:
        connection.send(head)
        assert go_on.wait(5)
        connection.send(body)
        connection.close()

    upstream.script = script
    with Client(daemon.port) as client:
        client.send(get())
        assert client.head().status == 200
        go_on.set()
        with contextlib.suppress(ConnectionResetError):
            assert body.startswith(client.rest())


def test_an_answer_without_length_that_is_cut_is_reset(daemon: Daemon, upstream: Recording) -> None:
    """Its end is that of the connection: an orderly end would pass for a whole answer."""
    go_on = threading.Event()

    def script(connection: Connection, _: bytes) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
        assert go_on.wait(5)
        connection.reset()

    upstream.script = script
    with Client(daemon.port) as client:
        client.send(get())
        assert client.head().status == 200
        assert client.take(5) == b"hello"
        go_on.set()
        with pytest.raises(ConnectionResetError):
            client.rest()


def test_chunks_that_are_cut_are_reset_for_http_1_0(daemon: Daemon, upstream: Recording) -> None:
    go_on = threading.Event()

    def script(connection: Connection, _: bytes) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        assert go_on.wait(5)
        connection.close()

    upstream.script = script
    with Client(daemon.port) as client:
        client.send(get(version="1.0"))
        assert client.head().status == 200
        assert client.take(5) == b"hello"
        go_on.set()
        with pytest.raises(ConnectionResetError):
            client.rest()


@pytest.mark.parametrize(
    "answer",
    [
        OK,
        b"HTTP/1.1 204 No Content\r\n\r\n",
        CHUNKED.replace(b"X-Sum: 1\r\n", b""),
        b"HTTP/1.1 304 Not Modified\r\n\r\n",
    ],
    ids=["length", "204", "chunked", "304"],
)
def test_bytes_behind_an_answer_reach_nobody(daemon: Daemon, upstream: Recording, answer: bytes) -> None:
    poison = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
    upstream.script = answering(answer + poison)
    with Client(daemon.port) as client:
        first = client.ask(get("/1"))
        assert b"poison" not in first.body
        upstream.script = answering(OK)
        assert client.ask(get("/2")).body == b"ok"
    assert len(upstream.connections) == 2


def test_bytes_on_an_idle_connection_reach_nobody(daemon: Daemon, upstream: Recording) -> None:
    with Client(daemon.port) as client:
        client.ask(get("/1"))
        upstream.connections[0].send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
        assert upstream.connections[0].ended.wait(5)
        assert client.ask(get("/2")).body == b"ok"
    assert len(upstream.connections) == 2


def test_a_server_that_speaks_first_is_not_asked(daemon: Daemon, upstream: Recording) -> None:
    upstream.greet = lambda connection: connection.send(b"220 mail.example ESMTP\r\n")
    with Client(daemon.port) as client:
        assert client.ask(get()).status == 502
        upstream.greet = None
        assert client.ask(get()).status == 200


def test_a_server_that_closes_at_once(daemon: Daemon, upstream: Recording) -> None:
    for greet in (Connection.close, Connection.reset):
        upstream.greet = greet
        for _ in range(20):
            assert status(daemon, get()) == 502
    upstream.greet = None
    assert status(daemon, get()) == 200


# --- kept connections that were closed meanwhile


def close_when_asked_again(connection: Connection, head: bytes) -> None:
    """Answers the first request of each connection and closes at the first byte of the next."""
    answering(OK)(connection, head)
    with contextlib.suppress(OSError):
        connection.sock.recv(1)
    connection.reset()


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
def test_what_can_be_repeated_is_repeated_once_on_a_new_connection(
    daemon: Daemon, upstream: Recording, method: str
) -> None:
    upstream.script = close_when_asked_again
    with Client(daemon.port) as client:
        assert client.ask(get("/1")).status == 200
        assert client.ask(get("/2", method=method), head_only=method == "HEAD").status == 200
    assert len(upstream.connections) == 2


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_what_cannot_be_repeated_is_502(daemon: Daemon, upstream: Recording, method: str) -> None:
    upstream.script = close_when_asked_again
    with Client(daemon.port) as client:
        assert client.ask(get("/1")).status == 200
        answer = client.ask(get("/2", "Content-Length: 5", method=method) + b"hello")
        assert (answer.status, answer.closes) == (502, False)
        assert client.ask(get("/3")).status == 200
    assert not any(b" /2 " in request for request in upstream.requests)


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_what_was_not_written_at_all_is_sent_on_a_new_connection(
    daemon: Daemon, upstream: Recording, method: str
) -> None:
    """The worker stands still while a request comes in and then the kept connection is reset: it reads the
    request first, and writes to a connection that is none any more."""
    (worker,) = daemon.workers()
    go = threading.Event()

    def script(connection: Connection, head: bytes) -> None:
        answer_ok(connection, head)
        if head.startswith(b"GET"):
            assert go.wait(10)
            connection.reset()

    upstream.script = script
    with Client(daemon.port) as client:
        assert client.ask(get("/1")).status == 200
        os.kill(worker, signal.SIGSTOP)
        try:
            client.send(get("/2", "Content-Length: 5", method=method) + b"hello")
            go.set()
            assert upstream.connections[0].ended.wait(10)
        finally:
            os.kill(worker, signal.SIGCONT)
        assert client.answer().status == 200
    assert len(upstream.connections) == 2
    assert upstream.connections[1].received.endswith(b"\r\n\r\nhello")


def test_a_body_that_was_read_whole_is_repeated(daemon: Daemon, upstream: Recording) -> None:
    upstream.script = close_when_asked_again
    with Client(daemon.port) as client:
        client.ask(get("/1"))
        assert client.ask(get("/2", "Content-Length: 5", method="PUT") + b"hello").status == 200
    assert upstream.connections[1].received.endswith(b"\r\n\r\nhello")


def test_a_kept_connection_that_was_closed_is_no_failure_of_the_server(
    recording: Recording, second: Recording, tmp_path: Path
) -> None:
    recording.clear()
    daemon = start(
        tmp_path, f"{recording.url}, {second.url}", ", balance: round_robin, eject: {failures: 1, for: 1h}"
    )
    recording.script = close_when_asked_again
    with Client(daemon.port) as client:
        statuses = [client.ask(post(b"hello")).status for _ in range(12)]
    assert statuses.count(502) == 3
    assert statuses.count(200) == 9
    assert len(second.requests) == 6
    stop(daemon)


def test_a_new_connection_that_is_closed_is_not_repeated(daemon: Daemon, upstream: Recording) -> None:
    upstream.script = answering_then_closing(b"")
    assert status(daemon, get()) == 502
    assert len(upstream.connections) == 1


# --- several servers


def test_requests_go_to_the_server_with_the_fewest_in_flight(
    recording: Recording, second: Recording, tmp_path: Path
) -> None:
    recording.clear()
    daemon = start(tmp_path, f"{recording.url}, {second.url}")
    go = threading.Event()

    def wait(connection: Connection, head: bytes) -> None:
        assert go.wait(10)
        answer_ok(connection, head)

    recording.script = second.script = wait
    with contextlib.ExitStack() as clients:
        asking = [clients.enter_context(Client(daemon.port)) for _ in range(10)]
        for client in asking:
            client.send(get())
        recording.wait_requests(5)
        second.wait_requests(5)
        go.set()
        assert [client.answer().status for client in asking] == [200] * 10
    assert (len(recording.requests), len(second.requests)) == (5, 5)
    stop(daemon)


def test_a_server_that_is_down_is_passed_over(recording: Recording, tmp_path: Path) -> None:
    recording.clear()
    with contextlib.closing(socket.socket()) as reserved:
        reserved.bind((LOOPBACK, 0))  # bound, but nobody listens
        down = f"http://{LOOPBACK}:{reserved.getsockname()[1]}"
        daemon = start(tmp_path, f"{down}, {recording.url}", ", balance: round_robin")
        with Client(daemon.port) as client:
            for n in range(20):
                request = post(b"hello") if n % 2 else get()
                assert client.ask(request).status == 200
        assert len(recording.requests) == 20
        stop(daemon)


def test_a_backup_serves_only_when_the_others_cannot(
    recording: Recording, second: Recording, tmp_path: Path
) -> None:
    recording.clear()
    with Recording() as first:
        daemon = start(tmp_path, f"{first.url}, {{url: {second.url}, backup: true}}")
        assert [status(daemon, get()) for _ in range(5)] == [200] * 5
        assert second.received == b""
    assert [status(daemon, get()) for _ in range(5)] == [200] * 5
    assert len(second.requests) == 5
    stop(daemon)


def test_nobody_there_is_502_and_soon(tmp_path: Path) -> None:
    urls = [f"http://{LOOPBACK}:{free_port()}" for _ in range(2)]
    daemon = start(tmp_path, ", ".join(urls))
    began = time.monotonic()
    with Client(daemon.port) as client:
        for request in (get(), post(b"hello"), post(bytes(100_000)), get()):
            answer = client.ask(request)
            assert (answer.status, answer.values("connection")) in ((502, []), (502, ["close"]))
            if answer.closes:
                break
    assert time.monotonic() - began < 2
    metrics = daemon.settled_metrics()
    assert metrics.total("ratelimitd_requests_total", outcome="upstream_error") >= 3
    stop(daemon)


def test_a_unix_socket_and_the_servers_own_host(tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    seen: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        configuration = tmp_path / "ratelimitd.yaml"
        configuration.write_text(
            f"workers: 1\nupstreams: {{web: {{servers: ['unix:{path}']}}}}\nheaders: {{host: upstream}}\n"
        )
        daemon = Daemon(tmp_path, ["-c", str(configuration)])
        daemon.wait_ready()

        def serve() -> None:
            accepted, _ = listener.accept()
            with accepted:
                seen.append(accepted.recv(4096))
                accepted.sendall(OK)

        thread = threading.Thread(target=serve)
        thread.start()
        assert status(daemon, get()) == 200
        thread.join()
        stop(daemon)
    assert values(seen[0], "host") == ["localhost"]
    assert values(seen[0], "x-forwarded-host") == ["a.example"]
