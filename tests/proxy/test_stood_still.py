"""A worker that stood still, as in a paused machine, ends nothing that moved meanwhile, and blames nobody.

What clients and web servers have sent waits in the sockets when it goes on, behind a tick that says how late
it is; and who is to send something next has not had the time in which nobody answered.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator

from tests.daemon import Daemon
from tests.proxy.recording import Connection, Recording, answer_ok
from tests.proxy.talking import Client, get, post

CONFIG = """
workers: 1
upstreams: {web: {servers: [{url}]}}
timeouts: {head: 2s, body: 2s, idle: 2s, response: 2s}
"""
STILL_S = 3.0  # longer than any deadline


@contextlib.contextmanager
def standing_still(daemon: Daemon) -> Iterator[None]:
    """The whole daemon: a worker alone would be taken for one that hangs."""
    pids = [daemon.pid, *daemon.workers()]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    try:
        yield
        time.sleep(began + STILL_S - time.monotonic())
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def test_what_came_meanwhile_came_in_time(daemon: Daemon, upstream: Recording) -> None:
    go = threading.Event()

    def script(connection: Connection, head: bytes) -> None:
        if b"/slow " in head:
            assert go.wait(10)
        answer_ok(connection, head)

    upstream.script = script
    (worker,) = daemon.workers()
    with contextlib.ExitStack() as stack:
        head, body, idle, response, late = (stack.enter_context(Client(daemon.port)) for _ in range(5))
        assert idle.ask(get()).status == 200
        response.send(get("/slow"))
        upstream.wait_requests(2)
        for client in (head, late):
            client.send(get()[:-1])
        body.send(post(b"hello")[:-1])
        time.sleep(0.2)  # so that all of it was read
        with standing_still(daemon):
            head.send(b"\n")
            body.send(b"o")
            idle.send(get())
            go.set()
        for client in (head, body, idle, response):
            assert client.answer().status == 200
        time.sleep(0.3)
        late.send(b"\n")
        assert late.answer().status == 200, "it had less than two seconds"
    assert daemon.workers() == [worker]
