"""Bodies of requests through a running daemon: chunked ones, broken ones, too large ones, those that nobody
waits for. The web server records every byte: it never sees the end of a body that was none."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.daemon import Daemon
from tests.proxy.recording import OK, Connection, Recording, answering, values
from tests.proxy.talking import Client, get, post
from tests.servers import wait_until

MIB = 1 << 20
CONFIG = """
workers: 1
upstreams: {web: {servers: [{url}], keepalive_idle: 1m}}
bounds: {body: 1MiB}
routes:
  - {match: {path: /streaming/*}, upstream: web, streaming: true}
  - {upstream: web}
"""
CHUNKED = "Transfer-Encoding: chunked"


def chunked(*chunks: bytes, extension: bytes = b"", trailers: bytes = b"") -> bytes:
    framed = b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
    return framed + b"0" + extension + b"\r\n" + trailers + b"\r\n"


def upload(body: bytes, *lines: str, target: str = "/form") -> bytes:
    return get(target, CHUNKED, *lines, method="POST") + body


def content(request: bytes) -> bytes:
    return request.partition(b"\r\n\r\n")[2]


def pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    return [data[start:end] for start, end in itertools.pairwise([0, *sorted(cuts), len(data)])]


# --- chunks


@pytest.mark.parametrize(
    "body",
    [
        chunked(),
        chunked(b"hello", b" world"),
        chunked(b"hello", extension=b"; some; parameters = stuff"),
        chunked(b"0\r\n\r\n", b"\r\n"),
        chunked(b"hello", trailers=b"Vary: *\r\nX-Real-IP: 6.6.6.6\r\n"),
        chunked(*[b"x"] * 10_000),
        chunked(b"x" * 300_000, b"y" * 70_000),
    ],
    ids=["empty", "two", "extensions", "framing-in-it", "trailers", "tiny", "large"],
)
def test_chunks_are_cut_anew(daemon: Daemon, upstream: Recording, body: bytes) -> None:
    with Client(daemon.port) as client:
        assert client.ask(upload(body)).status == 200
        assert client.ask(get("/next")).status == 200
    request, following = upstream.requests
    assert content(request) == content_of(body)
    assert values(request, "transfer-encoding") == ["chunked"]
    assert b"6.6.6.6" not in upstream.received
    assert b"some" not in upstream.received
    assert following.startswith(b"GET /next ")
    assert len(upstream.connections) == 1


def content_of(body: bytes) -> bytes:
    result = b""
    while (size := int(body.partition(b"\r\n")[0].partition(b";")[0], 16)) > 0:
        start = body.index(b"\r\n") + 2
        result += body[start : start + size]
        body = body[start + size + 2 :]
    return result


def test_tiny_chunks_go_up_without_what_they_carry(daemon: Daemon, upstream: Recording) -> None:
    """A quarter of a million chunks: the server gets the same ones, in their shortest form."""
    with Client(daemon.port) as client:
        assert client.ask(upload(chunked(*[b"x"] * 250_000))).status == 200
    assert content(upstream.requests[0]) == b"x" * 250_000
    assert len(upstream.received) < 250_000 * len(b"1\r\nx\r\n") + 1_000


@given(st.lists(st.binary(min_size=1, max_size=100), max_size=6), st.data())
@settings(max_examples=30)
def test_any_cut_gives_the_server_the_same_content(
    daemon: Daemon, recording: Recording, chunks: list[bytes], data: st.DataObject
) -> None:
    request = upload(chunked(*chunks, extension=b";a=b", trailers=b"X: y\r\n")) + get("/next")
    cuts = data.draw(st.lists(st.integers(0, len(request)), max_size=5))
    before = len(recording.requests)
    with Client(daemon.port) as client:
        for piece in pieces(request, cuts):
            client.send(piece)
        assert [client.answer().status, client.answer().status] == [200, 200]
    first, second = recording.requests[before:]
    assert content(first) == b"".join(chunks)
    assert second.startswith(b"GET /next ")


def test_pipelined_with_chunks_between(daemon: Daemon, upstream: Recording) -> None:
    def echo(connection: Connection, head: bytes) -> None:
        body = connection.read_body(head)
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    upstream.script = echo
    kinds = [upload(chunked(b"one", b"two")), post(b"three"), get()]
    kinds.append(upload(chunked(b"four", trailers=b"X:\r\n")))
    for cut in (1 << 20, 1_000, 7):
        with Client(daemon.port) as client:
            for piece in pieces(b"".join(kinds) * 20, range(cut, len(b"".join(kinds)) * 20, cut)):
                client.send(piece)
            for expected in (b"onetwo", b"three", b"", b"four") * 20:
                assert client.answer().body == expected


# --- what is no body


BROKEN = {
    "size": b"5\r\nhello\r\n6_0\r\n world\r\n0\r\n\r\n",
    "sign": b"5\r\nhello\r\n+5\r\nhello\r\n0\r\n\r\n",
    "terminator": b"5\r\nhello!\r\n0\r\n\r\n",
    "bare-lf": b"5\r\nhello\n0\r\n\r\n",
    "empty-extension": b"5\r\nhello\r\n5;\r\nhello\r\n0\r\n\r\n",
    "control-in-extension": b"5\r\nhello\r\n5;a\x01\r\nhello\r\n0\r\n\r\n",
    "last-chunk": b"5\r\nhello\r\n0 \r\n\r\n",
    "trailer-host": b"5\r\nhello\r\n0\r\nHost: b.example\r\n\r\n",
    "trailer-length": b"5\r\nhello\r\n0\r\nContent_Length: 5\r\n\r\n",
    "trailer-coding": b"5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "trailer-name": b"5\r\nhello\r\n0\r\nX : y\r\n\r\n",
    "trailer-folded": b"5\r\nhello\r\n0\r\nX: y\r\n z\r\n\r\n",
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN.keys())
def test_broken_chunks_are_refused_and_never_whole_upstream(
    daemon: Daemon, upstream: Recording, body: bytes
) -> None:
    request = upload(body)
    for cuts in ((), range(len(request) - len(body), len(request))):
        upstream.clear()
        with Client(daemon.port) as client:
            for piece in pieces(request + get("/smuggled"), cuts):
                client.send(piece)
            answer = client.answer()
            assert (answer.status, answer.closes) == (400, True)
            assert client.is_closed()
        for connection in upstream.connections:
            assert connection.ended.wait(5)
        assert b"\r\n0\r\n\r\n" not in upstream.received
        assert b"/smuggled" not in upstream.received


def test_a_body_that_breaks_behind_an_early_answer_cuts_it(daemon: Daemon, upstream: Recording) -> None:
    upstream.script = lambda connection, head: connection.send(  # noqa: ARG005
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"
    )
    with Client(daemon.port) as client:
        client.send(upload(b"5\r\nhello\r\n"))
        assert client.take_until(b"\r\n\r\nhello")
        client.send(b"x")
        assert client.is_closed()
    assert upstream.connections[0].ended.wait(5)
    assert b"\r\n0\r\n\r\n" not in upstream.received


@pytest.mark.parametrize("kind", ["chunked", "buffered", "streamed"])
def test_a_client_that_ends_its_side_within_a_body(daemon: Daemon, upstream: Recording, kind: str) -> None:
    request = {
        "chunked": upload(b"5\r\nhello\r\n0\r\n"),
        "buffered": post(b"hello")[:-1],
        "streamed": post(b"x" * 100_000)[:-1],
    }[kind]
    with Client(daemon.port) as client:
        client.send(request)
        if kind != "buffered":
            wait_until(lambda: b"\r\n\r\n" in upstream.received, "the head came")
        client.end()
        answer = client.answer()
        assert (answer.status, answer.closes) == (400, True)
        assert client.is_closed()
    for connection in upstream.connections:
        assert connection.ended.wait(5)
    assert b"\r\n0\r\n\r\n" not in upstream.received


# --- how large


def test_a_chunked_body_larger_than_allowed(daemon: Daemon, upstream: Recording) -> None:
    for body in (chunked(b"x" * (MIB - 1), b"yz"), b"100001\r\n", b"fffffffffffffff\r\n"):
        upstream.clear()
        with Client(daemon.port) as client:
            client.send(upload(body))
            answer = client.answer()
            assert (answer.status, answer.closes) == (413, True)
        assert b"\r\n0\r\n\r\n" not in upstream.received
    with Client(daemon.port) as client:
        assert client.ask(upload(chunked(b"x" * (MIB - 1), b"y"))).status == 200


def test_too_large_in_a_later_piece(daemon: Daemon, upstream: Recording) -> None:
    with Client(daemon.port) as client:
        client.send(upload(b"5\r\nhello\r\n"))
        wait_until(lambda: b"hello" in upstream.received, "the first chunk came")
        client.send(b"100000\r\n")
        answer = client.answer()
        assert (answer.status, answer.closes) == (413, True)
    assert upstream.connections[0].ended.wait(5)


# --- when a server is chosen


def test_chunks_go_up_as_they_come(daemon: Daemon, upstream: Recording) -> None:
    with Client(daemon.port) as client:
        client.send(upload(b"5\r\nhel"))
        wait_until(lambda: upstream.received.endswith(b"\r\n\r\n5\r\nhel"), "the first bytes came")
        client.send(b"lo\r")
        wait_until(lambda: upstream.received.endswith(b"5\r\nhello"), "the rest came")
        assert client.ask(b"\n0\r\n\r\n").status == 200


def test_bodies_of_streaming_routes_go_up_as_they_come(daemon: Daemon, upstream: Recording) -> None:
    with Client(daemon.port) as client:
        client.send(post(b"hello", target="/streaming/x")[:-2])
        wait_until(lambda: upstream.received.endswith(b"\r\n\r\nhel"), "the first bytes came")
        assert client.ask(b"lo").status == 200


# --- answers that do not wait for the body


def early(connection: Connection, head: bytes) -> None:  # noqa: ARG001
    connection.send(OK)
    connection.wait_closed()


REST = {"last": b"lo\r\n0\r\n\r\n", "more": b"lo\r\n" + chunked(get("/smuggled"))}


@pytest.mark.parametrize("rest", REST.values(), ids=REST.keys())
def test_an_early_answer_and_the_rest_of_the_chunks(daemon: Daemon, upstream: Recording, rest: bytes) -> None:
    """The rest is read and thrown away, and the connection goes on with the right byte."""
    upstream.script = early
    with Client(daemon.port) as client:
        client.send(upload(b"5\r\nhel"))
        assert client.answer().status == 200
        upstream.script = answering(OK)
        client.send(rest)
        assert client.ask(get("/next")).status == 200
    assert [request.split(b" ")[1] for request in upstream.requests] == [b"/form", b"/next"]
    assert b"lo\r\n" not in upstream.received.partition(b"hel")[2]


def test_an_early_answer_and_chunks_without_end(daemon: Daemon, upstream: Recording) -> None:
    upstream.script = early
    with Client(daemon.port) as client:
        client.send(upload(b"5\r\nhel"))
        assert client.answer().status == 200
        client.send(b"lo\r\n" + chunked(*[get("/smuggled")] * 3_000)[:-5])
        assert client.is_closed()
    assert b"/smuggled" not in upstream.received


def test_a_chunked_upload_with_an_expectation(daemon: Daemon, upstream: Recording) -> None:
    def script(connection: Connection, head: bytes) -> None:
        connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        connection.read_body(head)
        connection.send(OK)

    upstream.script = script
    with Client(daemon.port) as client:
        assert client.ask(upload(b"", "Expect: 100-continue")).status == 100
        assert client.ask(chunked(b"hello")).status == 200
    assert content(upstream.requests[0]) == b"hello"


# --- around bodies


def test_methods_that_llhttp_does_not_know(daemon: Daemon, upstream: Recording) -> None:
    with Client(daemon.port) as client:
        for body in (b"", b"hello"):
            assert client.ask(post(body).replace(b"POST", b"VERSION-CONTROL")).status == 200
        assert client.ask(upload(chunked(b"hello")).replace(b"POST", b"UPDATE")).status == 200
        assert client.ask(get("/x", "Connection: Upgrade", "Upgrade: h2c", method="LABEL")).status == 200
        assert client.ask(get("/x", method="PRI")).status == 501
    assert [request.partition(b" ")[0] for request in upstream.requests] == [
        b"VERSION-CONTROL", b"VERSION-CONTROL", b"UPDATE", b"LABEL"
    ]  # fmt: skip
    assert content(upstream.requests[1]) == content(upstream.requests[2]) == b"hello"


def test_http_1_0_expects_nothing(daemon: Daemon, upstream: Recording) -> None:
    with Client(daemon.port) as client:
        request = get("/", "Content-Length: 5", "Expect: 100-continue", method="POST", version="1.0")
        assert client.ask(request + b"hello").status == 200
    assert values(upstream.requests[0], "expect") == []


@pytest.mark.parametrize(
    ("lines", "sent"),
    [
        (["TE: trailers"], ["trailers"]),
        (["TE: gzip", "TE: x , TRAILERS"], ["trailers"]),
        (["TE: gzip"], []),
        (["TE: nottrailers"], []),
        ([], []),
    ],
)
def test_whether_trailers_are_read_is_said(
    daemon: Daemon, upstream: Recording, lines: list[str], sent: list[str]
) -> None:
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: 1\r\n\r\n"
    upstream.script = answering(answer)
    with Client(daemon.port) as client:
        client.send(get("/", *lines))
        client.head()
        assert client.take_until(b"\r\n\r\n") == b"0\r\nX-Sum: 1\r\n\r\n"
    assert values(upstream.requests[0], "te") == sent


# --- bodies that begin behind a request that is in work


def answering_later(upstream: Recording) -> threading.Event:
    """The answer to /first waits for the event."""
    go = threading.Event()

    def script(connection: Connection, head: bytes) -> None:
        if b" /first " in head:
            assert go.wait(10)
        answering(OK)(connection, head)

    upstream.script = script
    return go


@pytest.mark.parametrize("size", [65_536, 300_000], ids=["buffered", "streamed"])
def test_a_body_of_which_too_much_came_early_is_read_on(
    daemon: Daemon, upstream: Recording, size: int
) -> None:
    """Reading had stopped for it; it goes on although the web server's connection is a kept one."""
    go = answering_later(upstream)
    body = bytes(size)
    with Client(daemon.port) as client:
        sender = threading.Thread(target=client.send, args=(get("/first") + post(body),))
        sender.start()
        upstream.wait_requests(1)
        received = -1.0
        while received != (received := daemon.metrics().total("ratelimitd_bytes_total", direction="in")):
            sender.join(0.05)
        go.set()
        assert [client.answer().status for _ in range(2)] == [200, 200]
        sender.join()
    assert len(upstream.connections) == 1
    assert content(upstream.requests[1]) == body


@pytest.mark.parametrize("form", ["buffered", "streamed", "chunked"])
def test_a_body_that_came_early_and_will_never_be_whole(
    daemon: Daemon, upstream: Recording, form: str
) -> None:
    """The client has closed its side: nobody waits for the rest, and the web server sees nothing of it."""
    go = answering_later(upstream)
    request = (
        upload(b"5\r\nhello") if form == "chunked" else post(bytes(1_000 if form == "buffered" else MIB))
    )
    with Client(daemon.port) as client:
        client.send(get("/first") + request[:900])
        client.end()
        upstream.wait_requests(1)
        go.set()
        assert [client.answer().status for _ in range(2)] == [200, 400]
        assert client.is_closed()
    assert len(upstream.requests) == 1
