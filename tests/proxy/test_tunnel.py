"""Upgrades, byte by byte: when a tunnel opens and when it does not, what becomes of bytes that come too
early, how each side ends."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.daemon import Daemon
from tests.memory import own_kib
from tests.proxy.recording import OK, Connection, Recording, answering, answering_then_closing, values
from tests.proxy.talking import Client, get
from tests.proxy.tunnelling import (
    SWITCHING,
    UPGRADE,
    Peer,
    echoing,
    open_tunnel,
    receive,
    reset,
    wait_nothing_is_left,
)
from tests.servers import wait_until

CONFIG = """
workers: 1
upstreams: {web: {servers: [{url}], keepalive_idle: 1m, eject: {failures: 1000}}}
limits: [{name: sockets, per: "header:X-User", missing: skip, concurrent: 1}]
"""

KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture
def peer(upstream: Recording) -> Iterator[Peer]:
    peer = Peer(upstream)
    yield peer
    peer.finish()


# --- when a tunnel opens, and when not


def test_bytes_pass_both_ways_and_are_counted(daemon: Daemon, upstream: Recording) -> None:
    upstream.script = echoing
    before = daemon.metrics()
    with Client(daemon.port) as client:
        answer = client.ask(get("/chat", *UPGRADE, "Sec-WebSocket-Key: x"))
        assert answer.status == 101
        assert [answer[name] for name in ("upgrade", "connection", "x-sent")] == ["websocket", "Upgrade", "1"]
        message = b"GET /no-request HTTP/1.1\r\n\r\n" * 100
        client.send(message)
        assert client.take(len(message)) == message
        during = daemon.metrics()
        assert during.total("ratelimitd_connections", state="tunnel") == 1
        assert during.total("ratelimitd_connections") == 1
        assert during.total("ratelimitd_upstream_inflight") == 1
        client.end()
        assert client.is_closed()
    (head,) = upstream.requests
    assert [values(head, name) for name in ("connection", "upgrade", "sec-websocket-key")] == [
        ["Upgrade"],
        ["websocket"],
        ["x"],
    ]
    wait_nothing_is_left(daemon)
    after = daemon.metrics()
    for outcome, times in {"forwarded": 1, "client_gone": 0, "malformed": 0}.items():
        name = "ratelimitd_requests_total"
        assert after.total(name, outcome=outcome) - before.total(name, outcome=outcome) == times
    for direction in ("in", "out"):
        name = "ratelimitd_bytes_total"
        grown = after.total(name, direction=direction) - before.total(name, direction=direction)
        assert len(message) + 60 < grown < len(message) + 200


@pytest.mark.parametrize(
    ("lines", "offered"),
    [
        (["Connection: keep-alive, Upgrade", "Upgrade: h2c, websocket"], "websocket"),
        (["Connection: upgrade", "Upgrade: WebSocket,H2C", "Upgrade: foo/2"], "WebSocket, foo/2"),
        (["Connection: upgrade", 'Upgrade: "websocket", websocket'], "websocket"),
        (["Connection: close, upgrade", "Upgrade: websocket"], "websocket"),
    ],
)
def test_what_is_offered_but_h2c_is_offered_on(
    daemon: Daemon, upstream: Recording, lines: list[str], offered: str
) -> None:
    upstream.script = echoing
    with Client(daemon.port) as client:
        assert client.ask(get("/", *lines)).status == 101
    (head,) = upstream.requests
    assert (values(head, "connection"), values(head, "upgrade")) == (["Upgrade"], [offered])


@pytest.mark.parametrize(
    ("version", "lines"),
    [
        ("1.1", ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"]),
        ("1.1", ["Connection: Upgrade", "Upgrade: h2c, H2C"]),
        ("1.1", ["Connection: Upgrade", "Upgrade: , "]),
        ("1.1", ["Connection: Upgrade"]),
        ("1.1", ["Upgrade: websocket"]),
        ("1.0", list(UPGRADE)),
    ],
    ids=["h2c", "h2c-twice", "nothing", "no-upgrade", "no-connection", "http-1.0"],
)
@pytest.mark.parametrize("asks", [False, True], ids=["served", "101"])
def test_what_offers_nothing_is_served_as_http(
    daemon: Daemon, upstream: Recording, version: str, lines: list[str], asks: bool
) -> None:
    upstream.script = answering(SWITCHING if asks else OK)
    with Client(daemon.port) as client:
        assert client.ask(get("/", *lines, version=version)).status == (502 if asks else 200)
    (head,) = upstream.requests
    assert not [name for name in ("connection", "upgrade", "http2-settings") if values(head, name)]


@pytest.mark.parametrize(
    "switching",
    [
        SWITCHING.replace(b"websocket", b"h2c"),
        SWITCHING.replace(b"websocket", b"websocket, foo"),
        SWITCHING.replace(b"websocket", b"websocket/13"),
        SWITCHING.replace(b"Upgrade: websocket\r\n", b""),
        SWITCHING.replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
    ids=["h2c", "more", "version", "nothing", "http-1.0"],
)
def test_a_101_to_what_was_not_offered_is_502(daemon: Daemon, upstream: Recording, switching: bytes) -> None:
    def script(connection: Connection, head: bytes) -> None:
        connection.send(switching + b"babble" if values(head, "upgrade") else OK)

    upstream.script = script
    with Client(daemon.port) as client:
        assert client.ask(get("/", *UPGRADE) + get("/next")).status == 502
        assert client.answer().status == 200  # over another connection
    assert len(upstream.connections) == 2


def test_interim_answers_may_come_before(daemon: Daemon, upstream: Recording) -> None:
    hint = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    upstream.script = answering(hint + SWITCHING.replace(b"X-Sent: 1", b"Content-Length: 5") + b"first")
    with Client(daemon.port) as client:
        assert client.ask(get("/", *UPGRADE, "Expect: 100-continue")).status == 103
        answer = client.head()
        assert (answer.status, answer.values("content-length")) == (101, [])
        assert client.take(5) == b"first"


# --- what comes too early


def test_nothing_behind_the_head_goes_up_before_the_101(daemon: Daemon, upstream: Recording) -> None:
    early = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
    seen: list[bytes] = []

    def script(connection: Connection, _: bytes) -> None:
        connection.sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.sock.recv(1)
        connection.sock.settimeout(10)
        connection.send(SWITCHING)
        seen.append(connection.read(2 * len(early)))

    upstream.script = script
    with Client(daemon.port) as client:
        client.send(get("/", *UPGRADE) + early)
        client.send(early)
        assert client.answer().status == 101
        wait_until(lambda: seen, "the early bytes came")
    assert seen == [early + early]


def test_many_early_bytes_wait_outside(daemon: Daemon, upstream: Recording) -> None:
    early = bytes(range(256)) * (4 * KIB)
    go = threading.Event()

    def script(connection: Connection, head: bytes) -> None:
        assert go.wait(10)
        echoing(connection, head)

    upstream.script = script
    with Client(daemon.port) as client:
        client.send(get("/", *UPGRADE))
        sender = threading.Thread(target=client.send, args=(early,))
        sender.start()
        wait_until(lambda: daemon.metrics().total("ratelimitd_upstream_inflight"), "it is asked")
        go.set()
        assert client.answer().status == 101
        assert client.take(len(early)) == early
        sender.join()


@pytest.mark.parametrize("status", ["200 OK", "426 Upgrade Required", "101"])
def test_a_refused_upgrade_stays_http(daemon: Daemon, upstream: Recording, status: str) -> None:
    """Bytes that were meant for a tunnel are requests then, each read from its first byte."""
    answer = OK.replace(b"200 OK", status.encode()) if status != "101" else SWITCHING.replace(b"web", b"")

    def script(connection: Connection, head: bytes) -> None:
        connection.send(answer if b"/chat" in head else OK)

    upstream.script = script
    with Client(daemon.port) as client:
        client.send(get("/chat", *UPGRADE) + get("/second") + get("/third")[:10])
        assert client.answer().status == (502 if status == "101" else int(status[:3]))
        assert client.answer().status == 200
        assert client.ask(get("/third")[10:]).status == 200
    targets = [request.split(b" ")[1] for request in upstream.requests]
    assert targets == [b"/chat", b"/second", b"/third"]


def test_a_refused_upgrade_makes_no_request_of_frames(daemon: Daemon, upstream: Recording) -> None:
    upstream.script = answering(OK)
    with Client(daemon.port) as client:
        client.send(get("/chat", *UPGRADE) + b"\x82\x05hello")
        assert client.answer().status == 200
        answer = client.answer()
        assert (answer.status, answer.closes) == (400, True)
    assert len(upstream.requests) == 1


def test_a_refusal_that_ends_the_connection_ends_it(daemon: Daemon, upstream: Recording) -> None:
    upstream.script = answering_then_closing(b"HTTP/1.1 403 Forbidden\r\n\r\nno")
    with Client(daemon.port) as client:
        answer = client.ask(get("/chat", *UPGRADE))
        assert (answer.status, answer.body) == (403, b"no")


# --- how a tunnel ends


def test_a_client_may_say_its_last_word_first(daemon: Daemon, peer: Peer) -> None:
    with Client(daemon.port) as client:
        open_tunnel(client)
        client.send(b"last")
        client.end()
        assert peer.take(4) == b"last"
        assert peer.is_ended()
        for _ in range(3):
            peer.sock.sendall(b"more")
            assert client.take(4) == b"more"
        peer.finish()
        assert client.is_closed()
    wait_nothing_is_left(daemon)


def test_a_server_may_say_its_last_word_first(daemon: Daemon, peer: Peer) -> None:
    with Client(daemon.port) as client:
        open_tunnel(client)
        peer.sock.sendall(b"last")
        peer.sock.shutdown(socket.SHUT_WR)
        assert client.rest() == b"last"
        for _ in range(3):
            client.send(b"more")
            assert peer.take(4) == b"more"
        client.end()
        assert peer.is_ended()
    wait_nothing_is_left(daemon)


def test_a_client_that_ended_with_its_request_gets_the_tunnel(daemon: Daemon, upstream: Recording) -> None:
    go = threading.Event()

    def script(connection: Connection, _: bytes) -> None:
        assert go.wait(10)
        connection.send(SWITCHING)
        assert connection.read(5) == b"early"
        connection.wait_closed()
        connection.send(b"good bye")
        connection.close()

    upstream.script = script
    with Client(daemon.port) as client:
        client.send(get("/", *UPGRADE) + b"early")
        client.end()
        wait_until(lambda: daemon.metrics().total("ratelimitd_upstream_inflight"), "it is asked")
        go.set()
        assert client.answer().status == 101
        assert client.rest() == b"good bye"
    wait_nothing_is_left(daemon)


@pytest.mark.parametrize("pending", [b"", b"unread"])
def test_a_reset_of_the_client_is_passed_on(daemon: Daemon, peer: Peer, pending: bytes) -> None:
    with Client(daemon.port) as client:
        open_tunnel(client)
        client.send(pending)
        assert peer.take(len(pending)) == pending
        reset(client.sock)
        assert peer.is_reset()
    wait_nothing_is_left(daemon)


def test_a_reset_of_the_server_is_passed_on(daemon: Daemon, peer: Peer) -> None:
    with Client(daemon.port) as client:
        open_tunnel(client)
        reset(peer.sock)
        with pytest.raises(ConnectionResetError):
            client.take(1)
    wait_nothing_is_left(daemon)


def test_a_client_that_vanishes_while_it_reads_nothing(daemon: Daemon, upstream: Recording) -> None:
    peer = Peer(upstream)
    with Client(daemon.port, receive_buffer=4 * KIB) as client:
        open_tunnel(client)
        peer.sock.settimeout(0.5)
        with pytest.raises(TimeoutError):
            peer.sock.sendall(bytes(80 * MIB))
        reset(client.sock)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            while True:
                peer.sock.sendall(bytes(MIB))
    peer.finish()
    wait_nothing_is_left(daemon)


# --- how much is held, and how long


@pytest.mark.parametrize("reads_not", ["client", "server"])
def test_who_reads_nothing_is_waited_for(daemon: Daemon, upstream: Recording, reads_not: str) -> None:
    """The bytes wait in the system's buffers and at their sender, not in the daemon."""
    (worker,) = daemon.workers()
    data = bytes(range(256)) * (128 * KIB)
    peer = Peer(upstream)
    with Client(daemon.port) as client:
        open_tunnel(client)
        before_kib = own_kib(worker)
        sender, taker = client.sock, peer.sock
        if reads_not == "client":
            sender, taker = taker, sender
        sender.settimeout(60)
        sent = threading.Thread(target=sender.sendall, args=(data,))
        sent.start()

        def counted() -> float:
            return daemon.metrics().total("ratelimitd_bytes_total")

        waited = object()
        while waited != (waited := counted()):
            sent.join(0.2)
        assert sent.is_alive()
        assert own_kib(worker) - before_kib < 512
        assert receive(taker, len(data)) == data
        sent.join()
    peer.finish()
    wait_nothing_is_left(daemon)


def test_a_place_of_a_concurrency_limit_is_held_by_the_tunnel(daemon: Daemon, upstream: Recording) -> None:
    upstream.script = echoing
    request = get("/chat", *UPGRADE, "X-User: a")
    with Client(daemon.port) as first, Client(daemon.port) as second:
        assert first.ask(request).status == 101
        assert second.ask(request).status == 429
        first.end()
        assert first.is_closed()
        wait_until(lambda: second.ask(request).status == 101, "the place is free again")


# --- byte for byte

piece = st.binary(min_size=1, max_size=300) | st.integers(1, 100 * KIB).map(lambda size: b"\x81" * size)


@settings(deadline=None, max_examples=60)
@given(early=st.binary(max_size=100), late=st.binary(max_size=100), up=st.lists(piece), down=st.lists(piece))
def test_bytes_arrive_as_they_were_sent(
    daemon: Daemon, recording: Recording, early: bytes, late: bytes, up: list[bytes], down: list[bytes]
) -> None:
    """Invariant: each side gets exactly what the other one sent, however it was cut, and then the end."""
    peer = Peer(recording, late)
    got: list[bytes] = []

    def serve() -> None:
        for data in down:
            peer.sock.sendall(data)
        peer.sock.shutdown(socket.SHUT_WR)
        while data := peer.sock.recv(1 << 16):
            got.append(data)
        peer.finish()

    server = threading.Thread(target=serve)
    with Client(daemon.port) as client:
        client.send(get("/", *UPGRADE) + early)
        assert client.answer().status == 101
        server.start()

        def ask() -> None:
            for data in up:
                client.send(data)
            client.end()

        sender = threading.Thread(target=ask)
        sender.start()
        assert client.rest() == late + b"".join(down)
        sender.join()
        server.join()
    assert b"".join(got) == early + b"".join(up)
