"""Replies of our own to requests whose body was not read: no byte of a body passes for a request, and the
answer arrives. A short rest is read and the connection goes on; with a long one the connection ends."""

from __future__ import annotations

import pytest

from tests.daemon import Daemon
from tests.proxy.recording import Recording
from tests.proxy.talking import Client, get, post

CONFIG = """
workers: 1
upstreams: {web: {servers: [{url}], keepalive_idle: 1m}}
bounds: {body: 8MiB}
limits:
  - {name: none, per: "header:X-Api-Key", missing: deny, rate: 1/1d, match: {path: /refused}}
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
