"""A server with one connection and nobody who may wait: a kept one that has ended keeps no request out."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from tests.daemon import Daemon
from tests.proxy.recording import Connection, Recording, answer_ok
from tests.proxy.talking import Client, get, post
from tests.servers import wait_until

CONFIG = """
workers: 1
upstreams: {web: {servers: [{url: '{url}', max_connections: 1}], keepalive_idle: 1m, queue: {size: 0}}}
"""


def end(upstream: Recording) -> None:
    (kept,) = upstream.connections
    kept.end()
    assert kept.ended.wait(10)


@pytest.mark.parametrize("request_", [get("/2"), post(b"hello", target="/2")], ids=["get", "post"])
@pytest.mark.parametrize("is_first", ["request", "end"])
def test_one_that_ended_before_it_was_used(
    daemon: Daemon, upstream: Recording, request_: bytes, is_first: str
) -> None:
    """Both are there when the worker looks, one or the other first."""
    (worker,) = daemon.workers()
    with Client(daemon.port) as first, Client(daemon.port) as second:
        assert first.ask(get("/1")).status == 200
        os.kill(worker, signal.SIGSTOP)
        try:
            what: list[Callable[[], None]] = [lambda: second.send(request_), lambda: end(upstream)]
            for each in what if is_first == "request" else reversed(what):
                each()
        finally:
            os.kill(worker, signal.SIGCONT)
        is_lost = is_first == "request" and request_.startswith(b"POST")  # it may have been heard
        assert second.answer().status == (502 if is_lost else 200)
        assert first.ask(get("/3")).status == 200


def test_one_that_is_closed_when_it_is_used(daemon: Daemon, upstream: Recording) -> None:
    def script(connection: Connection, head: bytes) -> None:
        answer_ok(connection, head)
        if len(upstream.connections) == 1:
            connection.sock.recv(10)
            connection.reset()

    upstream.script = script
    with Client(daemon.port) as first, Client(daemon.port) as second:
        assert first.ask(get("/1")).status == 200
        assert second.ask(get("/2")).status == 200


def test_there_is_never_more_than_one(daemon: Daemon, upstream: Recording) -> None:
    """The place of one that has ended is given once."""
    (worker,) = daemon.workers()
    with Client(daemon.port) as first, Client(daemon.port) as second, Client(daemon.port) as third:
        assert first.ask(get("/1")).status == 200
        os.kill(worker, signal.SIGSTOP)
        try:
            second.send(get("/2"))
            third.send(get("/3"))
            end(upstream)
        finally:
            os.kill(worker, signal.SIGCONT)
        assert sorted((second.answer().status, third.answer().status)) == [200, 429]
        assert len(upstream.connections) == 2
        wait_until(lambda: first.ask(get("/4")).status == 200, "there is room again")
        assert len(upstream.connections) == 2
