"""The client's side, through a running daemon: what is refused, what is kept, and what the web server sees.

The web server records every byte: a request that is refused must not have sent it one.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import threading
from pathlib import Path

import pytest

from tests.daemon import Daemon
from tests.proxy.recording import OK, Connection, Recording, answering, fields, values
from tests.proxy.talking import Client, get, post
from tests.servers import wait_until

MIB = 1 << 20
# More than the system keeps by itself for connections on the loopback, far less than what is sent there.
SYSTEM_BUFFERS = 80 * MIB


def outcomes(daemon: Daemon, outcome: str) -> float:
    return daemon.settled_metrics().total("ratelimitd_requests_total", outcome=outcome)


# --- what is refused


@pytest.mark.parametrize(
    "data", [b"GET /\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"]
)
def test_a_refusal_is_an_answer_and_the_last_one(daemon: Daemon, upstream: Recording, data: bytes) -> None:
    """Which requests are refused is the corpora's business (tests/e2e/test_corpora.py)."""
    with Client(daemon.port) as client:
        client.send(data + get("/smuggled"))
        answer = client.answer()
        assert answer.status == 400
        assert answer.closes
        assert answer["cache-control"] == "no-store"
        assert {"date", "content-length"} <= dict(answer.fields).keys()
        assert client.is_closed()
    assert upstream.received == b""


def test_refusals_are_counted(daemon: Daemon) -> None:
    before = outcomes(daemon, "malformed")
    with Client(daemon.port) as client:
        client.ask(b"GET /\r\n\r\n")
    assert outcomes(daemon, "malformed") == before + 1


@pytest.mark.parametrize(
    ("target", "forwarded"),
    [
        ("http://a.example/x?y", b"/x?y"),
        ("http://a.example", b"/"),
        ("http://a.example?y=/z", b"/?y=/z"),
        ("HTTPS://A.Example/", b"/"),
    ],
)
def test_absolute_form_becomes_origin_form(
    daemon: Daemon, upstream: Recording, target: str, forwarded: bytes
) -> None:
    with Client(daemon.port) as client:
        assert client.ask(get(target)).status == 200
    assert upstream.requests[0].startswith(b"GET " + forwarded + b" HTTP/1.1\r\nHost: a.example\r\n")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (get("/" + "a" * 8192), 414),
        (get("/" + "a" * 40_000), 414),
        (b"GET /" + b"a" * 40_000, 414),
        (get("/", "X: " + "y" * 40_000), 431),
        (get("/", *["X: " + "y" * 400] * 90), 431),
        (get("/", *["X: y"] * 100), 431),
        (get("/", "X: " + "y" * 33_000 + "\nZ: z"), 431),
    ],
    ids=["target", "huge-target", "endless-target", "field", "fields", "many-fields", "bare-lf-beyond"],
)
def test_too_large(daemon: Daemon, upstream: Recording, data: bytes, status: int) -> None:
    for send in (Client.send, Client.send_bytes):
        with Client(daemon.port) as client:
            if len(data) > 20_000 and send == Client.send_bytes:
                for at in range(0, len(data), 1_000):
                    client.send(data[at : at + 1_000])
            else:
                send(client, data)
            answer = client.answer()
            assert answer.status == status
            assert answer.closes
    assert upstream.received == b""


def test_one_clients_connection_fields_are_not_held_against_another(
    daemon: Daemon, upstream: Recording
) -> None:
    """llhttp takes Proxy-Connection for Connection and reads nothing behind a close."""
    with Client(daemon.port) as first, Client(daemon.port) as second:
        for _ in range(3):
            assert first.ask(get("/", "Proxy-Connection: close")).status == 200
            assert second.ask(get("/second")).status == 200
            assert first.ask(get("/", "Connection: Upgrade", "Upgrade: h2c")).status == 200
            assert second.ask(post(b"hello")).status == 200
            assert first.ask(post(b"hello", "Connection: Upgrade", "Upgrade: h2c")).status == 200
            assert second.ask(get("/", "Connection: keep-alive", version="1.0")).status == 200
    assert len(upstream.requests) == 18


# --- one connection, many requests


def test_both_sides_keep_their_connections(daemon: Daemon, upstream: Recording) -> None:
    with Client(daemon.port) as client:
        for n in range(20):
            answer = client.ask(get(f"/{n}"))
            assert (answer.status, answer.body, answer.values("connection")) == (200, b"ok", [])
    assert len(upstream.connections) == 1
    assert [request.split(b" ")[1] for request in upstream.requests] == [b"/%d" % n for n in range(20)]


def test_pipelined_requests_are_answered_in_order(daemon: Daemon, upstream: Recording) -> None:
    def echo(connection: Connection, head: bytes) -> None:
        body = head.split(b" ")[1] + connection.read_body(head)
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    upstream.script = echo
    requests = b""
    for n in range(50):
        requests += get(f"/{n}") if n % 3 else post(b"body %d" % n, target=f"/{n}")
    for cut in (len(requests), 1_000, 7):
        with Client(daemon.port) as client:
            for at in range(0, len(requests), cut):
                client.send(requests[at : at + cut])
            for n in range(50):
                assert client.answer().body == b"/%d" % n + (b"" if n % 3 else b"body %d" % n)


def test_a_client_that_has_ended_its_side_gets_all_its_answers(daemon: Daemon, upstream: Recording) -> None:
    with Client(daemon.port) as client:
        client.send(get("/1") + post(b"two") + get("/3"))
        client.end()
        assert [client.answer().status for _ in range(3)] == [200, 200, 200]
        assert client.is_closed()
    assert len(upstream.requests) == 3


def test_a_client_may_end_its_side_while_it_is_answered(daemon: Daemon, upstream: Recording) -> None:
    ended = threading.Event()

    def slowly(connection: Connection, head: bytes) -> None:  # noqa: ARG001
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
        assert ended.wait(5)
        connection.send(b"cd")

    upstream.script = slowly
    with Client(daemon.port) as client:
        client.send(get())
        assert client.take_until(b"ab")
        client.end()
        ended.set()
        assert client.rest() == b"cd"


def test_half_a_head_and_the_end(daemon: Daemon, upstream: Recording) -> None:
    with Client(daemon.port) as client:
        client.send(get()[:-1])
        client.end()
        assert client.is_closed()
    assert upstream.received == b""


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 10 * MIB])
def test_bodies_go_up_unchanged(daemon: Daemon, upstream: Recording, size: int) -> None:
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    with Client(daemon.port) as client:
        assert client.ask(post(body)).status == 200
        assert client.ask(get("/next")).status == 200
    head, _, received = upstream.requests[0].partition(b"\r\n\r\n")
    assert values(head + b"\r\n\r\n", "content-length") == [str(size)]
    assert received == body


def test_a_small_body_reaches_the_web_server_whole(daemon: Daemon, upstream: Recording) -> None:
    with Client(daemon.port) as client:
        client.send(post(b"hello")[:-2])
        assert client.ask(b"lo").status == 200
        assert upstream.requests[0].endswith(b"\r\n\r\nhello")
    with Client(daemon.port) as client:
        client.send(post(b"hello")[:-2])
        client.end()
        assert client.answer().status == 400
        assert client.is_closed()
    assert len(upstream.requests) == 1


def test_a_client_that_leaves_in_the_middle(daemon: Daemon, upstream: Recording) -> None:
    before = outcomes(daemon, "client_gone")
    with Client(daemon.port) as client:
        client.send(post(b"x" * MIB)[: MIB // 2])
        upstream.script = answering()
        wait_until(lambda: len(upstream.received) > MIB // 4, "half of the body came")
    assert upstream.connections[0].ended.wait(5)
    assert outcomes(daemon, "client_gone") == before + 1


# --- HTTP/1.0


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;a\r\nlo\r\n0\r\nX:\r\n\r\n",
            b"hello",
        ),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b""),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
    ],
    ids=["length", "chunked", "chunked-empty", "interim"],
)
def test_http_1_0_gets_no_chunks_and_no_interim_answers(
    daemon: Daemon, upstream: Recording, answer: bytes, body: bytes
) -> None:
    for parts in ([answer], [answer[n : n + 1] for n in range(len(answer))]):
        upstream.script = answering(*parts)
        with Client(daemon.port) as client:
            got = client.ask(get(version="1.0"))
            assert (got.status, got.body) == (200, body)
            assert got.values("transfer-encoding") == []
            assert got.closes
            assert client.is_closed()


@pytest.mark.parametrize("framing", [b"Transfer-Encoding: chunked\r\n", b"Content-Length: 5\r\n"])
def test_http_1_0_head(daemon: Daemon, upstream: Recording, framing: bytes) -> None:
    upstream.script = answering(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n")
    with Client(daemon.port) as client:
        answer = client.ask(get(method="HEAD", version="1.0"), head_only=True)
        assert answer.values("transfer-encoding") == []
        assert client.is_closed()


def test_http_1_0_without_a_host_asks_for_that_of_the_server(daemon: Daemon, upstream: Recording) -> None:
    """It is passed on as HTTP/1.1, in which every request has a Host: servers answer 400 without one."""
    with Client(daemon.port) as client:
        assert client.ask(b"GET /old HTTP/1.0\r\n\r\n").status == 200
    assert [values(request, "host") for request in upstream.requests] == [[f"127.0.0.1:{upstream.port}"]]


def test_http_1_0_may_keep_its_connection(daemon: Daemon, upstream: Recording) -> None:
    with Client(daemon.port) as client:
        for _ in range(3):
            answer = client.ask(get("/", "Connection: keep-alive", version="1.0"))
            assert answer["connection"] == "keep-alive"
    assert [request.split(b"\r\n")[0] for request in upstream.requests] == [b"GET / HTTP/1.1"] * 3


# --- what belongs to one connection


def test_fields_of_one_connection_are_not_passed_on(daemon: Daemon, upstream: Recording) -> None:
    upstream.script = answering(
        b"HTTP/1.1 200 OK\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n"
        b"Proxy-Connection: keep-alive\r\nUpgrade: h2c\r\nX-End: 2\r\nContent-Length: 0\r\n\r\n"
    )
    hops = [
        "Connection: X-Hop, TE",
        "X-Hop: 1",
        "TE: gzip, Trailers",
        "Keep-Alive: timeout=5",
        "Upgrade: websocket",
    ]
    with Client(daemon.port) as client:
        answer = client.ask(get("/", *hops, "Proxy-Connection: keep-alive", "X-End: 2"))
    assert [name for name, _ in fields(upstream.requests[0])][:2] == ["host", "x-end"]
    assert not {"x-hop", "keep-alive", "upgrade", "proxy-connection"} & {
        name for name, _ in fields(upstream.requests[0])
    }
    assert values(upstream.requests[0], "te") == ["trailers"]
    assert values(upstream.requests[0], "connection") == ["TE"]
    assert [name for name, _ in answer.fields] == ["x-end", "content-length"]


def test_expectations_are_the_web_servers_to_answer(daemon: Daemon, upstream: Recording) -> None:
    def script(connection: Connection, head: bytes) -> None:
        connection.send(b"HTTP/1.1 100 Continue\r\nX-Hint: 1\r\n\r\n")
        connection.read_body(head)
        connection.send(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")

    upstream.script = script
    with Client(daemon.port) as client:
        for expectation in ("100-continue", "100-Continue", "100-continue, x", "something-else"):
            client.send(post(b"hello", f"Expect: {expectation}")[:-5])
            interim = client.answer()
            assert (interim.status, interim["x-hint"]) == (100, "1")
            assert client.ask(b"hello").status == 201
    assert len(upstream.connections) == 1


def test_a_refused_expectation_needs_no_body(daemon: Daemon, upstream: Recording) -> None:
    """The rest of that request never comes: its upstream connection must not serve another one."""
    upstream.script = lambda connection, head: connection.send(  # noqa: ARG005
        b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n"
    )
    with Client(daemon.port) as client:
        answer = client.ask(post(b"hello", "Expect: 100-continue")[:-5])
        assert (answer.status, answer.closes) == (417, True)
    upstream.script = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    with Client(daemon.port) as client:
        assert client.ask(get("/next")).status == 200
    assert len(upstream.connections) == 2


def test_an_early_answer_ends_both_connections(daemon: Daemon, upstream: Recording) -> None:
    """Else the next request would be read as the rest of this body."""
    upstream.script = lambda connection, head: connection.send(  # noqa: ARG005
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"
    )
    with Client(daemon.port) as client:
        answer = client.ask(post(b"x" * MIB)[: MIB // 2])
        assert (answer.status, answer.body, answer.closes) == (403, b"no", True)
    upstream.script = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    with Client(daemon.port) as client:
        assert client.ask(get("/next")).status == 200
    assert upstream.connections[0].ended.wait(5)
    assert upstream.connections[1].requests[0].startswith(b"GET /next ")


# --- clients that do not read


def resident_kib(pid: int) -> int:
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))


def test_a_client_that_does_not_read_stops_the_web_server(daemon: Daemon, upstream: Recording) -> None:
    (worker,) = daemon.workers()
    sent = 0
    blocked = threading.Event()

    def endless(connection: Connection, head: bytes) -> None:  # noqa: ARG001
        nonlocal sent
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (400 * MIB))
        connection.sock.settimeout(0.3)
        piece = bytes(MIB)
        try:
            while True:
                sent += connection.sock.send(piece)
        except TimeoutError:
            blocked.set()
        connection.sock.settimeout(10)
        with contextlib.suppress(OSError):
            while True:
                connection.sock.send(piece)

    upstream.script = endless
    before = resident_kib(worker)
    with Client(daemon.port, receive_buffer=4_096) as client:
        client.send(get())
        assert blocked.wait(10)
        assert sent < SYSTEM_BUFFERS
        assert resident_kib(worker) - before < 2_048
        client.take_until(b"\r\n\r\n")
        assert client.take(MIB) == bytes(MIB)


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_web_server_that_does_not_read_stops_the_client(
    daemon: Daemon, upstream: Recording, chunked: bool
) -> None:
    (worker,) = daemon.workers()
    go = threading.Event()

    def late(connection: Connection, head: bytes) -> None:
        assert go.wait(10)
        connection.read_body(head)
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    upstream.script = late
    before = resident_kib(worker)
    body = bytes(150 * MIB)
    request = post(body)
    if chunked:
        chunk = b"10000\r\n" + bytes(1 << 16) + b"\r\n"
        request = get("/", "Transfer-Encoding: chunked", method="POST") + chunk * 2_400 + b"0\r\n\r\n"
    with Client(daemon.port) as client:
        client.send(request[:65_536])
        client.sock.settimeout(0.3)
        sent = 65_536
        with contextlib.suppress(TimeoutError):
            while sent < len(request):
                sent += client.sock.send(memoryview(request)[sent : sent + MIB])
        assert sent < SYSTEM_BUFFERS
        assert resident_kib(worker) - before < 4_096
        go.set()
        client.sock.settimeout(10)
        client.send(request[sent:])
        assert client.answer().status == 200
    assert upstream.requests[0].endswith(body)


def test_a_web_server_that_takes_only_the_start_stops_the_client(tmp_path: Path) -> None:
    """What came with the head is more than the new connection takes at once: it is full before it is used."""
    with Recording(segment=536, receive_buffer=4_096) as recording:
        daemon = Daemon(tmp_path, ["--upstream", recording.url])
        try:
            daemon.wait_ready()
            (worker,) = daemon.workers()
            go = threading.Event()

            def late(connection: Connection, head: bytes) -> None:
                if b" /late " in head:
                    assert go.wait(20)
                else:
                    connection.read_body(head)
                    connection.send(OK)
                connection.close()

            recording.script = late
            with Client(daemon.port) as client:
                # The system learns from a first body to take much at once.
                assert client.ask(post(bytes(4 * MIB))).status == 200
                before = resident_kib(worker)
                request = post(bytes(100 * MIB), target="/late")
                os.kill(worker, signal.SIGSTOP)
                client.sock.settimeout(1)
                sent = client.sock.send(memoryview(request)[:MIB])
                os.kill(worker, signal.SIGCONT)
                with contextlib.suppress(TimeoutError):
                    while sent < len(request):
                        sent += client.sock.send(memoryview(request)[sent : sent + MIB])
                assert sent < SYSTEM_BUFFERS
                assert resident_kib(worker) - before < 4_096
                go.set()
            daemon.finish()
        finally:
            daemon.stop()


def test_a_client_that_asks_on_and_on_and_never_reads(daemon: Daemon, upstream: Recording) -> None:
    (worker,) = daemon.workers()
    upstream.script = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n" + bytes(20_000))
    before = resident_kib(worker)
    flood = get() * 2_000
    sent = 0
    with Client(daemon.port, receive_buffer=4_096) as client:
        client.sock.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            while sent < 4 * SYSTEM_BUFFERS:
                sent += client.sock.send(flood)
        assert sent < SYSTEM_BUFFERS
        assert resident_kib(worker) - before < 4_096
        client.sock.settimeout(10)
        for _ in range(10):
            assert client.answer().status == 200


def test_a_client_that_always_asks_ahead_is_not_kept_in_memory(daemon: Daemon, upstream: Recording) -> None:
    """Its buffer never runs empty: each answer finds the next requests there."""
    (worker,) = daemon.workers()
    sent = threading.Semaphore(0)

    def when_there_are_more(connection: Connection, head: bytes) -> None:  # noqa: ARG001
        assert sent.acquire(timeout=10)
        connection.send(OK)

    upstream.script = when_there_are_more
    request = get("/", "X-Padding: " + "x" * 8_000)
    before = resident_kib(worker)
    with Client(daemon.port) as client:
        client.send(request * 6)
        for _ in range(1_500):
            client.send(request)
            sent.release()
            assert client.answer().status == 200
        assert resident_kib(worker) - before < 4_096
        for _ in range(6):
            sent.release()
            assert client.answer().status == 200


def test_a_client_that_has_gone_before_it_was_asked_who_it_is(daemon: Daemon, upstream: Recording) -> None:
    """What it sent is still there to be read, but nobody's: no limit, no list could say anything of it."""
    (worker,) = daemon.workers()
    with Client(daemon.port) as client:
        assert client.ask(get("/first")).status == 200  # and a kept connection waits for the next request
    os.kill(worker, signal.SIGSTOP)
    try:
        with Client(daemon.port) as client:
            client.send(get("/nobody"))
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    finally:
        os.kill(worker, signal.SIGCONT)
    with Client(daemon.port) as client:
        assert client.ask(get("/somebody")).status == 200
    assert b"/nobody" not in upstream.received
    wait_until(lambda: daemon.metrics().total("ratelimitd_connections") == 0, "no connection")


# --- what is answered here


def test_answers_to_head_have_no_body(daemon: Daemon, upstream: Recording) -> None:
    upstream.script = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    with Client(daemon.port) as client:
        for _ in range(3):
            assert client.ask(get(method="HEAD"), head_only=True)["content-length"] == "1000"
        refusal = client.ask(get("/../x", method="HEAD"), head_only=True)
        assert refusal.status == 400
        assert client.rest() == b""
    assert len(upstream.connections) == 1


def test_refusals_are_problems(daemon: Daemon) -> None:
    with Client(daemon.port) as client:
        answer = client.ask(get("/", method="BREW"))
        problem = json.loads(answer.body)
        assert (problem["status"], problem["title"]) == (501, "Not Implemented")
