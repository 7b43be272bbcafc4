"""Many more clients through a daemon than its table has places.

Whoever is over its limit stays refused meanwhile, each newcomer is admitted, what was forgotten is counted,
and the daemon needs no more memory for the second half of them than for the first.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ratelimitd.limits.table import shape
from tests.conftest import StartDaemon
from tests.daemon import Daemon
from tests.servers import LOOPBACK, Nginx

FILE = """
upstreams: {web: {servers: ["%s"], concurrency: unlimited}}
clients: {trusted_proxies: [127.0.0.0/8]}
limits: [{name: per-client, per: client, rate: 5/1h}]
store_options: {entries: %d}
shedding: {cpu_pressure: {signal: none}}
log: {access: none}
"""
CONNECTIONS = 4
EVERY = 1_000  # clients, between two requests of the offender
SLACK_BYTES = 2 << 20
OFFENDER = "203.0.113.9"
FIRST = int(ipaddress.ip_address("10.0.0.0"))


def request(client: str) -> bytes:
    return b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: %b\r\n\r\n" % client.encode("ascii")


def statuses(daemon: Daemon, clients: range) -> dict[bytes, int]:
    """One request for each of `clients` on one connection, and between them those of the offender; how
    often each status came."""
    requests = [request(str(ipaddress.ip_address(FIRST + number))) for number in clients]
    requests[::EVERY] = [line + request(OFFENDER) for line in requests[::EVERY]]
    wanted = len(requests) + len(requests[::EVERY])
    with socket.create_connection((LOOPBACK, daemon.port), timeout=30) as sock:
        sender = threading.Thread(target=sock.sendall, args=(b"".join(requests),), daemon=True)
        sender.start()
        found = {b"200": 0, b"429": 0}
        kept = b""
        while sum(found.values()) < wanted:
            data = sock.recv(1 << 18)
            assert data, f"the connection ended: {found}"
            data = kept + data
            for status in found:
                found[status] += data.count(b"HTTP/1.1 " + status)
            kept = data[-11:]  # a status line may be cut; a whole one is 12 bytes long
        sender.join(10)
    return found


def memory_bytes(daemon: Daemon) -> int:
    """What the supervisor and its workers have written, the segment they share included; Pss changes with
    whoever else has the same libraries loaded."""
    return sum(
        int(line.split()[1]) * 1024
        for pid in [daemon.pid, *daemon.workers()]
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        if line.startswith(("Anonymous:", "Shared_Dirty:"))
    )


def ask_all(daemon: Daemon, clients: range) -> None:
    """One request from each of `clients`, all of which are admitted, over some connections at once."""
    share = len(clients) // CONNECTIONS
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        parts = [clients[i * share : (i + 1) * share] for i in range(CONNECTIONS)]
        found = list(pool.map(lambda part: statuses(daemon, part), parts))
    assert sum(each[b"200"] for each in found) == len(clients)
    assert sum(each[b"429"] for each in found) == len(clients) // EVERY


@pytest.mark.parametrize(
    ("entries", "clients"), [(5_000, 40_000), pytest.param(20_000, 200_000, marks=pytest.mark.slow)]
)
def test_more_clients_than_places(
    start_daemon: StartDaemon, nginx: Nginx, tmp_path: Path, entries: int, clients: int
) -> None:
    file = tmp_path / "ratelimitd.yaml"
    file.write_text(FILE % (nginx.url, entries))
    daemon = start_daemon("-c", str(file), workers=2)
    with socket.create_connection((LOOPBACK, daemon.port), timeout=10) as sock:
        sock.sendall(request(OFFENDER) * 6)
        data = b""
        while b"HTTP/1.1 429" not in data:
            data += sock.recv(65536)
    assert data.count(b"HTTP/1.1 200") == 5
    ask_all(daemon, range(clients // 2))
    daemon.metrics()  # what the supervisor loads for its first scrape is no growth
    before = memory_bytes(daemon)
    ask_all(daemon, range(clients // 2, clients))
    assert memory_bytes(daemon) - before <= SLACK_BYTES
    form = shape(entries)
    places = 8 * form.stripes * form.buckets_per_stripe
    evicted = daemon.settled_metrics().total("ratelimitd_table_evictions_total")
    assert clients + 1 - places <= evicted <= clients
