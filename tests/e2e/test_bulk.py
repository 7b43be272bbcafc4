"""Bodies of any size pass byte for byte, in either direction and any framing, and the daemon holds next to
nothing of them, however slowly they are taken."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest

from tests.conftest import StartDaemon
from tests.daemon import Daemon
from tests.e2e.bulk import Origin, download, upload
from tests.memory import own_kib
from tests.servers import LOOPBACK, wait_until

MIB: Final = 1 << 20
RATE: Final = 32 * MIB
MOST_KIB: Final = 16 * 1024
MOST_EACH_KIB: Final = 256
DOWN: Final = ("length", "chunked", "close")
UP: Final = ("length", "chunked")
CONFIG: Final = """
workers: 1
upstreams: {{web: {{servers: ['{url}'], concurrency: unlimited}}}}
log: {{access: none}}
"""


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin(RATE) as server:
        yield server


@pytest.fixture
def daemon(start_daemon: StartDaemon, origin: Origin, tmp_path: Path) -> Daemon:
    file = tmp_path / "ratelimitd.yaml"
    file.write_text(CONFIG.format(url=origin.url))
    return start_daemon("-c", str(file))


def held_kib(daemon: Daemon) -> int:
    return sum(own_kib(pid) for pid in [daemon.pid, *daemon.workers()])


@pytest.mark.parametrize(
    ("size", "down", "up"),
    [
        pytest.param(128 * MIB, DOWN[:1], UP[1:], id="128MiB"),
        pytest.param(16 * MIB, DOWN[1:], UP[:1], id="16MiB"),
        pytest.param(1024 * MIB, DOWN, UP, id="1GiB", marks=pytest.mark.slow),
    ],
)
def test_large_bodies(
    daemon: Daemon, origin: Origin, size: int, down: tuple[str, ...], up: tuple[str, ...]
) -> None:
    """All at once, each at 32 MB/s."""
    before, most = held_kib(daemon), 0
    with ThreadPoolExecutor() as pool:
        downloads: dict[str, Future[str]] = {
            f"/{framing}/{size}": pool.submit(download, daemon.port, f"/{framing}/{size}") for framing in down
        }
        uploads = [pool.submit(upload, daemon.port, framing, size, RATE) for framing in up]
        running: list[Future[Any]] = [*downloads.values(), *uploads]
        while not all(future.done() for future in running):
            most = max(most, held_kib(daemon))
            threading.Event().wait(0.1)
        assert {target: future.result() for target, future in downloads.items()} == origin.hashes
        for future in uploads:
            sent, arrived = future.result()
            assert sent == arrived
    print(f"{most - before} KiB more")
    assert most - before < MOST_KIB


def bytes_moved(daemon: Daemon) -> float:
    return daemon.metrics().total("ratelimitd_bytes_total")


def wait_still(daemon: Daemon) -> None:
    """Until nothing moves any more."""
    last = object()
    while last != (last := bytes_moved(daemon)):
        threading.Event().wait(0.3)


READERS: Final = 40


def test_readers_that_take_nothing(daemon: Daemon) -> None:
    """What they asked for waits at the web server and in the buffers of the system."""
    (worker,) = daemon.workers()
    download(daemon.port, "/length/1000000")
    before = own_kib(worker)
    with contextlib.ExitStack() as stack:
        for _ in range(READERS):
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect((LOOPBACK, daemon.port))
            sock.sendall(b"GET /length/1000000000 HTTP/1.1\r\nHost: a.example\r\n\r\n")
        wait_until(lambda: bytes_moved(daemon) > READERS * 100_000, "the answers have begun")
        wait_still(daemon)
        held = own_kib(worker) - before
        print(f"{held / READERS:.0f} KiB for each")
        assert held < READERS * MOST_EACH_KIB
