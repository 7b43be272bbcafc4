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
EACH: Final = 10  # of those who take nothing, of each kind
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


@contextlib.contextmanager
def asking(port: int, request: str, body: bytes = b"") -> Iterator[None]:
    """A client that asks and reads nothing, and sends its body as far as that is taken."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect((LOOPBACK, port))
        lines = [request, "Host: a.example", *([f"Content-Length: {len(body)}"] if body else []), "", ""]
        sock.sendall("\r\n".join(lines).encode())

        def send() -> None:
            with contextlib.suppress(OSError):
                sock.sendall(body)

        sender = threading.Thread(target=send)
        sender.start()
        yield
        sock.shutdown(socket.SHUT_RDWR)
        sender.join()


def test_who_takes_nothing(daemon: Daemon) -> None:
    """What was sent to clients, and to web servers, waits at its sender and in the buffers of the system."""
    (worker,) = daemon.workers()
    for framing in DOWN:
        download(daemon.port, f"/{framing}/1000000")
    before = own_kib(worker)
    body = bytes(64 * MIB)
    with contextlib.ExitStack() as stack:
        for _ in range(EACH):
            for framing in DOWN:
                stack.enter_context(asking(daemon.port, f"GET /{framing}/{1000 * MIB} HTTP/1.1"))
            stack.enter_context(asking(daemon.port, "POST /deaf HTTP/1.1", body))
        count = EACH * (len(DOWN) + 1)
        wait_until(lambda: bytes_moved(daemon) > count * 500_000, "the bodies have begun")
        wait_still(daemon)
        held = own_kib(worker) - before
        print(f"{held / count:.0f} KiB for each")
        assert held < count * MOST_EACH_KIB
