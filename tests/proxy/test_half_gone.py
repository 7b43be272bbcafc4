"""Clients that take no more, or have perhaps left: what may idle is then not theirs to hold for ever."""

from __future__ import annotations

import contextlib

from tests.daemon import Daemon
from tests.proxy.recording import Connection, Recording
from tests.proxy.talking import Client, get
from tests.servers import wait_until

CONFIG = """
workers: 1
upstreams: {web: {servers: [{url}], keepalive_idle: 300ms}}
timeouts: {body: 500ms, idle: 1h, head: 1h}
limits: [{name: none, per: "header:X-Api-Key", missing: deny, rate: 1/1d, match: {path: /refused}}]
routes: [{match: {path: /streaming}, upstream: web, streaming: true}, {upstream: web}]
log: {access: none}
shedding: {cpu_pressure: {signal: none}}
"""


def begins(connection: Connection, _head: bytes) -> None:
    connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
    connection.wait_closed()


def test_who_leaves_a_stream_that_idles_is_missed(daemon: Daemon, upstream: Recording) -> None:
    """A close looks like the end of what the client has to say until something is sent to it."""
    upstream.script = begins
    with Client(daemon.port) as client:
        client.send(get("/streaming"))
        assert client.take_until(b"hello\r\n")
    assert upstream.connections[0].ended.wait(5)


def test_who_had_said_all_before_the_stream_began_is_missed_too(daemon: Daemon, upstream: Recording) -> None:
    upstream.script = begins
    with Client(daemon.port) as client:
        client.send(get("/streaming"))
        client.end()
        assert client.take_until(b"hello\r\n")
        assert upstream.connections[0].ended.wait(5)


def test_who_asks_ahead_and_takes_nothing_has_no_idle_time(daemon: Daemon) -> None:
    """All answers are whole, and wait for the client: that is no connection between two requests."""
    with Client(daemon.port, receive_buffer=4_096) as client:
        client.sock.settimeout(1)
        refused = get("/refused") * 1_000
        with contextlib.suppress(OSError):
            while True:
                client.send(refused)
        wait_until(lambda: not daemon.metrics().total("ratelimitd_connections"), "the connection ends", 8)
