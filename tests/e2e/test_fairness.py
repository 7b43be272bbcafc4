"""One client sends as much as it can, over many connections; all others of the worker are served in time.

What is sent costs much for its size: requests that are refused, tiny chunks, empty lines. All of it would
keep the worker's loop for seconds if it were read as it comes.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import StartDaemon
from tests.daemon import Daemon
from tests.proxy.recording import Connection, Recording
from tests.proxy.talking import Client, get
from tests.servers import Nginx, Process, wait_until

FILE = """
upstreams:
  web: {servers: ["%s"], keepalive_idle: 1m}
  sink: {servers: ["%s"]}
routes: [{match: {path: /sink}, upstream: sink}, {upstream: web}]
limits: [{name: none, per: "header:X-Api-Key", missing: deny, rate: 1/1d, match: {path: /refused}}]
bounds: {connections_per_client: 10000}
log: {access: none}
shedding: {cpu_pressure: {signal: none}}
"""
CHUNKED = get("/sink", "Transfer-Encoding: chunked", method="POST")
FLOODS = {
    "refused": (b"", get("/refused")),
    "tiny chunks": (CHUNKED, b"1\r\nx\r\n"),
    "large chunks": (CHUNKED, b"8000\r\n" + bytes(0x8000) + b"\r\n"),
    "empty lines": (b"", b"\r\n"),
}
MOST_S = 0.2

pytestmark = pytest.mark.timing


def take_all(connection: Connection, _head: bytes) -> None:
    with contextlib.suppress(OSError):
        while connection.sock.recv(1 << 20):
            pass
    connection.close()


@pytest.fixture(scope="module")
def sink() -> Iterator[Recording]:
    with Recording() as server:
        server.script = take_all
        yield server


@contextlib.contextmanager
def flood(directory: Path, daemon: Daemon, kind: str, connections: int) -> Iterator[None]:
    first, again = FLOODS[kind]
    program = [sys.executable, "-m", "tests.e2e.flooding", str(daemon.port), str(connections)]
    with Process("flooding", [*program, first.hex(), again.hex()], directory) as process:

        def is_at_work() -> bool:
            assert process.exit_code is None, process.stderr
            return daemon.metrics().total("ratelimitd_bytes_total", direction="in") > 1_000_000

        wait_until(is_at_work, "the flood has begun")
        yield
        assert process.exit_code is None, process.stderr
    # What the system has received of them yet is read, and chunk by chunk.
    wait_until(lambda: not daemon.metrics().total("ratelimitd_upstream_inflight"), "its requests end", 60)


def waits_s(daemon: Daemon, seconds: float) -> list[float]:
    """How long each of a client's requests takes, the shortest first."""
    pause = threading.Event()
    found = []
    with Client(daemon.port) as client:
        client.ask(get())
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            asked_s = time.monotonic()
            assert client.ask(get()).status == 200
            found.append(time.monotonic() - asked_s)
            pause.wait(0.005)
    return sorted(found)


@pytest.mark.parametrize("kind", list(FLOODS))
def test_others_are_served_in_time(
    start_daemon: StartDaemon, nginx: Nginx, sink: Recording, tmp_path: Path, kind: str
) -> None:
    file = tmp_path / "ratelimitd.yaml"
    file.write_text(FILE % (nginx.url, sink.url))
    daemon = start_daemon("-c", str(file))
    with flood(tmp_path, daemon, kind, 60):
        found = waits_s(daemon, 1.0)
    assert found[len(found) * 99 // 100] < MOST_S, found[-10:]
