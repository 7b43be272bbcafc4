"""Bodies of any size pass byte for byte, in either direction and any framing, and the daemon holds next to
nothing of them, however slowly they are taken."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest

from tests.certificates import Authority
from tests.conftest import StartDaemon
from tests.daemon import Daemon
from tests.e2e.bulk import Origin, connect, download, upload
from tests.memory import own_kib
from tests.servers import LOOPBACK, free_port, wait_until

MIB: Final = 1 << 20
RATE: Final = 32 * MIB
MOST_KIB: Final = 16 * 1024
MOST_EACH_KIB: Final = 256
EACH: Final = 18  # of those who take nothing, of each kind
DOWN: Final = ("length", "chunked", "close")
UP: Final = ("length", "chunked")
CONFIG: Final = """
workers: 1
listen: [{{bind: '{bind}'{tls}}}]
upstreams: {{web: {{servers: ['{url}'], concurrency: unlimited{verified}}}}}
timeouts: {{body: 5m}}
shedding: {{cpu_pressure: {{signal: none}}}}
log: {{access: none}}
"""


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin(RATE) as server:
        yield server


def start(
    start_daemon: StartDaemon, origin: Origin, directory: Path, tls: str = "", verified: str = ""
) -> Daemon:
    file, port = directory / "ratelimitd.yaml", free_port()
    file.write_text(CONFIG.format(url=origin.url, bind=f"{LOOPBACK}:{port}", tls=tls, verified=verified))
    return start_daemon("-c", str(file), port=port, listens_by_file=True)


@pytest.fixture
def daemon(start_daemon: StartDaemon, origin: Origin, tmp_path: Path) -> Daemon:
    return start(start_daemon, origin, tmp_path)


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
def asking(port: int, tls: ssl.SSLContext | None, request: str, body: bytes = b"") -> Iterator[None]:
    """A client that asks and reads nothing, and sends its body as far as that is taken."""
    with connect(port, tls, received=4096) as sock:
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


def held_for_each_kib(daemon: Daemon, tls: ssl.SSLContext | None, requests: Sequence[str]) -> float:
    """By the worker, for those who take nothing of the bodies that are sent to them."""
    (worker,) = daemon.workers()
    for framing in DOWN:
        download(daemon.port, f"/{framing}/1000000", tls)
    before, body = own_kib(worker), bytes(64 * MIB)
    with contextlib.ExitStack() as stack:
        for request in list(requests) * (EACH // len(requests)):
            sent = body if request.startswith("POST") else b""
            stack.enter_context(asking(daemon.port, tls, request, sent))
        wait_until(lambda: bytes_moved(daemon) > EACH * 500_000, "the bodies have begun")
        wait_still(daemon)
        held = (own_kib(worker) - before) / EACH
    print(f"{held:.0f} KiB for each")
    return held


TAKES_NOTHING: Final = pytest.mark.parametrize(
    "requests",
    [
        pytest.param([f"GET /{framing}/{1000 * MIB} HTTP/1.1" for framing in DOWN], id="client"),
        pytest.param(["POST /deaf HTTP/1.1"], id="web-server"),
    ],
)


@TAKES_NOTHING
def test_who_takes_nothing(daemon: Daemon, requests: list[str]) -> None:
    """What was sent to it waits at its sender and in the buffers of the system."""
    assert held_for_each_kib(daemon, None, requests) < MOST_EACH_KIB


@TAKES_NOTHING
def test_who_takes_nothing_over_tls(start_daemon: StartDaemon, tmp_path: Path, requests: list[str]) -> None:
    """On both sides of the daemon."""
    authority = Authority(tmp_path)
    pair = authority.issue(LOOPBACK)
    with Origin(RATE, pair) as origin:
        verified = f", tls: {{ca: '{authority.file}'}}"
        daemon = start(start_daemon, origin, tmp_path, f", tls: {pair.yaml}", verified)
        tls = ssl.create_default_context(cafile=authority.file)
        assert held_for_each_kib(daemon, tls, requests) < MOST_EACH_KIB
