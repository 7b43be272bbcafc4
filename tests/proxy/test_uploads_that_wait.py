"""Uploads that wait for room at a server which then takes nothing: the client is stopped."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest

from tests.daemon import Daemon
from tests.proxy.recording import Connection, Recording, answer_ok
from tests.proxy.talking import Client, get
from tests.proxy.test_client import MIB, SYSTEM_BUFFERS, resident_kib
from tests.servers import wait_until

CONFIG = """
workers: 1
upstreams:
  web: {servers: [{url: '{url}', max_connections: 1}], keepalive: 0, queue: {size: 10, wait: 20s}}
"""
SIZE = 100 * MIB
MOST_HELD_KIB = 1_024


@pytest.fixture(scope="module")
def recording() -> Iterator[Recording]:
    with Recording(receive_buffer=4_096) as server:
        yield server


def taken(daemon: Daemon) -> float:
    return daemon.metrics().total("ratelimitd_bytes_total", direction="in")


@pytest.mark.parametrize("framing", [f"Content-Length: {SIZE}", "Transfer-Encoding: chunked"])
def test_a_server_that_takes_nothing_stops_a_client_that_waited(
    daemon: Daemon, upstream: Recording, framing: str
) -> None:
    (worker,) = daemon.workers()
    let_go, leave = threading.Event(), threading.Event()
    left = SIZE

    def script(connection: Connection, head: bytes) -> None:
        if head.startswith(b"GET"):
            assert let_go.wait(20)
            answer_ok(connection, head)
            return
        assert leave.wait(20)
        connection.reset()

    upstream.script = script
    with Client(daemon.port) as first, Client(daemon.port) as second:
        first.send(get("/1"))
        upstream.wait_requests(1)
        before, held = taken(daemon), resident_kib(worker)
        second.send(get("/2", framing, method="PUT"))
        if "chunked" in framing:
            second.send(b"%x\r\n" % SIZE)
        second.sock.settimeout(0.3)
        with contextlib.suppress(TimeoutError):
            while left:
                left -= second.sock.send(bytes(min(left, 262_144)))
        assert taken(daemon) - before < MIB // 2, "it is not read on"
        let_go.set()
        assert first.answer().status == 200
        wait_until(lambda: len(upstream.requests) == 2, "the upload has its turn")
        with contextlib.suppress(TimeoutError):
            while left:
                left -= second.sock.send(bytes(min(left, 262_144)))
        assert taken(daemon) - before < SYSTEM_BUFFERS
        assert resident_kib(worker) - held < MOST_HELD_KIB
    leave.set()
