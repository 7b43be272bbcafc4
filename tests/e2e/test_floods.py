"""Floods of connections: at the bound of all, and at the limit of descriptors, newcomers are served on.

A daemon that may open few files is asked by many more clients that keep their connections. The oldest idle
ones end for the newest, web servers are reached all the time, and afterwards the daemon rests.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.daemon import Daemon
from tests.proxy.recording import Connection, Recording, answer_ok
from tests.proxy.talking import Client, get
from tests.servers import LOOPBACK, Nginx, wait_until

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
FILES = 256
FILE = """
upstreams: {web: {servers: ["%s"]}}
bounds: {connections: %d, connections_per_client: 10000}
log: {access: none}
"""


@contextlib.contextmanager
def running(
    directory: Path, server: Nginx | Recording, *, connections: int, workers: int, files: int = 0
) -> Iterator[Daemon]:
    directory.mkdir(exist_ok=True)
    file = directory / "ratelimitd.yaml"
    file.write_text(FILE % (server.url, connections))
    prefix = ("prlimit", f"--nofile={files}:{files}") if files else ()
    daemon = Daemon(directory, ["-c", str(file)], workers=workers, prefix=prefix)
    try:
        daemon.wait_ready()
        yield daemon
        daemon.finish()
    finally:
        daemon.stop()


def connect(daemon: Daemon) -> socket.socket:
    return socket.create_connection((LOOPBACK, daemon.port), timeout=10)


def answer(sock: socket.socket) -> bytes:
    """What comes for one request; empty when the connection is ended."""
    data = b""
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        sock.sendall(REQUEST)
        while not data.endswith(b"server"):
            part = sock.recv(65536)
            if not part:
                break
            data += part
    return data


def is_open(sock: socket.socket) -> bool:
    return answer(sock).startswith(b"HTTP/1.1 200")


def cpu_s(pid: int) -> float:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def assert_rests(daemon: Daemon) -> None:
    """No worker spins: in half a second it needs little CPU."""
    before = [cpu_s(pid) for pid in daemon.workers()]
    began_s = time.monotonic()
    wait_until(lambda: time.monotonic() > began_s + 0.5, "half a second passes")
    spent = [cpu_s(pid) - was for pid, was in zip(daemon.workers(), before, strict=True)]
    assert max(spent) < 0.2


def test_at_the_limit_of_descriptors_the_oldest_idle_connections_end(tmp_path: Path, nginx: Nginx) -> None:
    with (
        contextlib.ExitStack() as stack,
        running(tmp_path / "d", nginx, connections=10_000, workers=1, files=FILES) as daemon,
    ):
        socks: list[socket.socket] = []
        for _ in range(4 * FILES):
            socks.append(stack.enter_context(connect(daemon)))
            assert answer(socks[-1]).startswith(b"HTTP/1.1 200"), f"connection {len(socks)} is served"
        assert not is_open(socks[0])
        assert not is_open(socks[10])
        assert all(is_open(sock) for sock in socks[-100:])
        assert_rests(daemon)
        metrics = daemon.metrics()
        assert metrics.total("ratelimitd_connections_refused_total") == 0
        assert metrics.total("ratelimitd_worker_restarts_total") == 0


def test_the_end_of_a_request_counts_not_its_beginning(tmp_path: Path) -> None:
    """Who was served until just now goes last, however long ago that began."""
    with (
        Recording() as server,
        contextlib.ExitStack() as stack,
        running(tmp_path / "d", server, connections=10_000, workers=1, files=FILES) as daemon,
    ):
        go = threading.Event()

        def script(connection: Connection, head: bytes) -> None:
            if b"/long " in head:
                assert go.wait(20)
            answer_ok(connection, head)

        server.script = script
        long = stack.enter_context(Client(daemon.port))
        long.send(get("/long"))
        server.wait_requests(1)
        idle = [stack.enter_context(Client(daemon.port)) for _ in range(FILES // 3)]
        assert all(client.ask(get()).status == 200 for client in idle)
        go.set()
        assert long.answer().status == 200
        for _ in range(FILES // 2):
            stack.enter_context(Client(daemon.port))
        wait_until(idle[0].is_closed, "the oldest is ended")
        assert long.ask(get()).status == 200


def test_one_that_is_used_again_is_not_among_the_oldest_any_more(tmp_path: Path, nginx: Nginx) -> None:
    """They are looked for many at a time, and end one by one."""
    with (
        contextlib.ExitStack() as stack,
        running(tmp_path / "d", nginx, connections=10_000, workers=1, files=FILES) as daemon,
    ):
        socks: list[socket.socket] = []

        def come(count: int) -> None:
            for _ in range(count):
                socks.append(stack.enter_context(connect(daemon)))
                assert answer(socks[-1]).startswith(b"HTTP/1.1 200")

        def kept() -> float:
            return daemon.metrics().total("ratelimitd_connections")

        come(FILES // 2)
        while kept() == len(socks):
            come(1)
        assert is_open(socks[40])
        come(60)
        assert is_open(socks[40])
        assert not is_open(socks[41])


def test_a_flood_of_silent_connections_keeps_nobody_out(tmp_path: Path, nginx: Nginx) -> None:
    """All at once, faster than they are taken: those that are dropped are dropped, and clients are served."""
    with (
        contextlib.ExitStack() as stack,
        running(tmp_path / "d", nginx, connections=10_000, workers=1, files=FILES) as daemon,
    ):
        for _ in range(6 * FILES):
            stack.enter_context(connect(daemon))

        def is_served() -> bool:
            with connect(daemon) as sock:
                return is_open(sock)

        wait_until(is_served, "a client is served beside them")
        assert sum(is_served() for _ in range(50)) >= 49
        assert_rests(daemon)
        assert daemon.metrics().total("ratelimitd_worker_restarts_total") == 0
        assert "unexpected" not in daemon.stderr


def test_connections_are_bounded_over_all_workers(tmp_path: Path, nginx: Nginx) -> None:
    with (
        contextlib.ExitStack() as stack,
        running(tmp_path / "d", nginx, connections=40, workers=2) as daemon,
    ):
        socks = [stack.enter_context(connect(daemon)) for _ in range(60)]
        assert sum(is_open(sock) for sock in socks) == 40
        refused = daemon.metrics().total("ratelimitd_connections_refused_total", reason="total")
        assert refused == 20
        stack.pop_all().close()
        wait_until(lambda: daemon.metrics().total("ratelimitd_connections") == 0, "they are gone")
        with connect(daemon) as sock:
            assert is_open(sock)


def test_a_killed_worker_gives_its_places_back(tmp_path: Path, nginx: Nginx) -> None:
    with (
        contextlib.ExitStack() as stack,
        running(tmp_path / "d", nginx, connections=20, workers=2) as daemon,
    ):
        for _ in range(20):
            stack.enter_context(connect(daemon))
        for pid in daemon.workers():
            os.kill(pid, signal.SIGKILL)

        def is_served() -> bool:
            with contextlib.suppress(OSError), connect(daemon) as sock:
                return is_open(sock)
            return False

        wait_until(is_served, "the new workers have room", 30.0)
