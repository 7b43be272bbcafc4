"""Places of connections where their count is not free: nobody is refused, and nothing is given back later."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

from ratelimitd.segment.memory import Segment
from tests.daemon import Daemon
from tests.proxy.recording import Recording
from tests.proxy.talking import Client, get
from tests.servers import wait_until

CONFIG = """
workers: 1
upstreams: {web: {servers: [{url}], keepalive_idle: 1m}}
bounds: {connections_per_client: 2}
"""

LIBC = ctypes.CDLL(None)


class Lock:
    """The lock of the daemon's counts of what is in flight, held by a process that takes its time."""

    def __init__(self, daemon: Daemon) -> None:
        descriptors = Path(f"/proc/{daemon.pid}/fd")
        memory = next(fd for fd in descriptors.iterdir() if "memfd:ratelimitd" in os.readlink(fd))
        self._segment = Segment.attach(os.open(memory, os.O_RDWR))
        self._mutex = ctypes.c_char.from_buffer(self._segment.memory, self._segment.inflight_offset)

    def __enter__(self) -> None:
        assert LIBC.pthread_mutex_lock(ctypes.byref(self._mutex)) == 0

    def __exit__(self, *_: object) -> None:
        assert LIBC.pthread_mutex_unlock(ctypes.byref(self._mutex)) == 0
        self._segment.close()


def test_a_client_is_counted_after_its_count_was_not_free(daemon: Daemon, upstream: Recording) -> None:
    def connections() -> float:
        return daemon.metrics().total("ratelimitd_connections")

    with Lock(daemon), Client(daemon.port) as uncounted:
        assert uncounted.ask(get("/uncounted")).status == 200
    wait_until(lambda: connections() == 0, "it has gone")
    with Client(daemon.port) as first, Client(daemon.port) as second:
        assert first.ask(get("/first")).status == 200
        assert second.ask(get("/second")).status == 200
        with Client(daemon.port) as third:
            assert third.is_closed()
    assert len(upstream.requests) == 3


def test_a_lock_that_is_held_costs_a_wait_now_and_then(daemon: Daemon, upstream: Recording) -> None:  # noqa: ARG001
    with Lock(daemon):
        began_s = time.monotonic()
        for _ in range(100):
            with Client(daemon.port) as client:
                assert client.ask(get("/")).status == 200
        assert time.monotonic() - began_s < 0.8, "10 ms for each would be a second"
