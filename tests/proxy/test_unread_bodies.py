"""Replies of our own to requests whose body was not read: no byte of a body passes for a request, and the
answer arrives. A short rest is read and the connection goes on; with a long one the connection ends."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest

from tests.daemon import Daemon
from tests.proxy.recording import OK, Connection, Recording, answering
from tests.proxy.talking import Answer, Client, get, post

CONFIG = """
workers: 1
upstreams:
  web: {servers: [{url}], keepalive_idle: 1m}
  down: {servers: ['unix:/nowhere/web.sock'], health: {path: /, interval: 1s, fall: 1}}
routes:
  - {match: {path: /down}, upstream: down}
  - {upstream: web}
bounds: {body: 8MiB}
shedding: {cpu_pressure: {signal: none}}
limits:
  - {name: none, per: "header:X-Api-Key", missing: deny, rate: 1/1d, match: {path: /refused}}
  - {name: once, per: global, rate: 1/1d, match: {path: /limited}}
"""

SMUGGLED = get("/smuggled") * 3


def refused(body: bytes, *lines: str) -> bytes:
    return post(body, *lines, target="/refused")


@pytest.mark.parametrize("size", [1, 1_000, 65_536])
@pytest.mark.parametrize("delay", [False, True], ids=["with-the-head", "behind-the-head"])
def test_a_short_body_is_read_and_the_connection_goes_on(
    daemon: Daemon, upstream: Recording, size: int, delay: bool
) -> None:
    body = (SMUGGLED * (size // len(SMUGGLED) + 1))[:size]
    request = refused(body)
    with Client(daemon.port) as client:
        for _ in range(3):
            if delay:
                client.send(request[:-size])
            else:
                client.send(request)
            answer = client.answer()
            assert (answer.status, answer.closes) == (403, False)
            if delay:
                client.send(body)
        assert client.ask(get("/after")).status == 200
    assert [request.split(b" ")[1] for request in upstream.requests] == [b"/after"]


def test_pipelined_behind_a_refused_body(daemon: Daemon, upstream: Recording) -> None:
    data = (refused(b"x" * 100) + get("/after")) * 20
    for cut in (len(data), 50):
        upstream.clear()
        with Client(daemon.port) as client:
            for at in range(0, len(data), cut):
                client.send(data[at : at + cut])
            for _ in range(20):
                assert client.answer().status == 403
                assert client.answer().status == 200
        assert len(upstream.requests) == 20


@pytest.mark.parametrize("sent", [0, 1_000, 1 << 20], ids=["nothing", "some", "all"])
def test_a_long_body_ends_the_connection_and_the_answer_arrives(
    daemon: Daemon, upstream: Recording, sent: int
) -> None:
    body = SMUGGLED * ((1 << 20) // len(SMUGGLED) + 1)
    request = refused(body)
    with Client(daemon.port) as client:
        client.send(request[: len(request) - len(body) + sent])
        answer = client.answer()
        assert (answer.status, answer.closes) == (403, True)
        assert b"missing" in answer.body
        assert client.is_closed()
    assert upstream.received == b""


def test_a_body_larger_than_allowed(daemon: Daemon, upstream: Recording) -> None:
    with Client(daemon.port) as client:
        answer = client.ask(get("/", f"Content-Length: {8 * 1024 * 1024 + 1}", method="PUT"))
        assert (answer.status, answer.closes) == (413, True)
    assert upstream.received == b""


def test_a_refused_expectation_gets_no_100(daemon: Daemon, upstream: Recording) -> None:
    with Client(daemon.port) as client:
        answer = client.ask(refused(b"hello", "Expect: 100-continue")[:-5])
        assert (answer.status, answer.closes) == (403, True)
        assert client.is_closed()
    assert upstream.received == b""


def test_an_expectation_with_the_body_at_hand(daemon: Daemon, upstream: Recording) -> None:
    with Client(daemon.port) as client:
        assert client.ask(refused(b"hello", "Expect: 100-continue")).status == 403
        assert client.ask(get("/after")).status == 200
    assert len(upstream.requests) == 1


def test_a_body_that_does_not_come_ends_the_connection(daemon: Daemon, upstream: Recording) -> None:
    with Client(daemon.port) as client:
        answer = client.ask(refused(b"hello")[:-5])
        assert (answer.status, answer.closes) == (403, False)
        assert client.is_closed()  # after a second
    assert upstream.received == b""


# --- all kinds of bodies, refused for all kinds of reasons


def chunks(random: Random, size: int) -> bytes:
    body = b""
    while size > 0:
        n = random.randint(1, size)
        extension = random.choice([b"", b"", b";a=b", b';a="\\""'])
        body += b"%x%b\r\n%b\r\n" % (n, extension, (SMUGGLED * (n // len(SMUGGLED) + 1))[:n])
        size -= n
    return body + b"0\r\n" + random.choice([b"", b"X: GET /smuggled HTTP/1.1\r\n"]) + b"\r\n"


def refused_at_random(random: Random) -> bytes:
    """A request that is answered with 429, 403, 413, 502 or 503 before its body is read, or amid it."""
    target = random.choice(["/limited", "/refused", "/down"])
    lines = random.choice([[], [], ["Expect: 100-continue"]])
    size = random.choice([1, 10, 300, 3_000, 30_000, 65_536, 70_000, 200_000])
    kind = random.choice(["length", "chunked", "chunked", "too-large", "broken"])
    body = (SMUGGLED * (size // len(SMUGGLED) + 1))[:size]
    if kind == "length":
        return post(body, *lines, target=target)
    if kind == "too-large":
        return get(target, "Content-Length: 9000000", *lines, method="PUT") + body
    head = get(target, "Transfer-Encoding: chunked", *lines, method="PUT")
    body = chunks(random, size)
    if kind == "broken":
        at = random.randrange(body.rindex(b"\r\n0\r\n"))
        body = body[:at] + random.choice([b"\n", b"x", b"\r\n"]) + body[at:]
    return head + body


def answer_or_end(client: Client) -> Answer | None:
    try:
        return client.answer()
    except (AssertionError, ConnectionError):
        return None


def status_if_kept(client: Client, mark: str) -> int:
    """That of the refusal when the connection goes on, and what was behind it was read; or 0."""
    refusal = answer_or_end(client)
    if refusal is None or refusal.closes:
        return 0
    assert refusal.status in (403, 413, 429, 502, 503)
    answer = answer_or_end(client)
    assert answer is None or (answer.status, answer.values("x-target")) == (200, [mark]), answer
    return 0 if answer is None else refusal.status


def rounds(daemon: Daemon, seed: int, requests: int) -> Counter[int]:
    """Sends them, each with a good one behind it, over connections that are kept where they are; returns the
    statuses before good ones that were read."""
    random = Random(seed)
    client = Client(daemon.port)
    kept = Counter[int]()
    for n in range(requests):
        mark = f"/after/{seed}/{n}"
        data = refused_at_random(random) + get(mark)
        cuts = sorted(random.choices(range(len(data) + 1), k=random.choice([0, 0, 1, 3])))
        with contextlib.suppress(OSError):  # it may have been closed in the middle of what is sent
            for start, end in itertools.pairwise([0, *cuts, len(data)]):
                client.send(data[start:end])
        if status := status_if_kept(client, mark):
            kept[status] += 1
        else:
            client.sock.close()
            client = Client(daemon.port)
    client.sock.close()
    return kept


def test_after_any_refusal_the_next_request_is_read_from_the_right_byte(
    daemon: Daemon, upstream: Recording
) -> None:
    """10,000 requests over four connections at a time: none is answered with what a body said."""

    def script(connection: Connection, head: bytes) -> None:
        target = head.split(b" ")[1]
        assert target.startswith(b"/after/"), head
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Target: %b\r\n\r\n" % target)

    upstream.script = answering(OK)
    with Client(daemon.port) as client:
        client.ask(get("/limited"))  # from now on it is over its limit
    upstream.clear()
    upstream.script = script
    with ThreadPoolExecutor(4) as pool:
        kept = sum(pool.map(lambda seed: rounds(daemon, seed, 2_500), range(4)), Counter[int]())
    print(kept)
    assert kept.total() > 3_000
    assert min(kept[status] for status in (403, 429, 503)) > 500
    assert b"/smuggled" not in upstream.received
