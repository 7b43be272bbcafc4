"""Random requests from 150 connections through two workers: every answer belongs to its request, and when all
is over no descriptor and no memory is left behind. The same where each waits for a store, which is slow and
cut off now and then. SOAK_SEED in the environment makes another run."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import uvloop

from tests.conftest import StartDaemon
from tests.daemon import Daemon
from tests.memory import own_kib
from tests.redis_servers import Redis
from tests.servers import LOOPBACK, Process, free_port, wait_until
from tests.soak.clients import Soak, soak
from tests.store_proxy import StoreProxy

CLIENTS: Final = 150
GROWTH_KIB: Final = 4_096  # of a worker, behind the first third; what the allocator keeps varies by 2 MiB
STORE_DELAY_S: Final = 0.005
CUT_EVERY_S: Final = 3.0  # it is back a second later
CONFIG: Final = """
upstreams: {{web: {{servers: ['{url}'], keepalive: 8, keepalive_idle: 500ms, concurrency: unlimited}}}}
bounds: {{connections_per_client: 10000}}
timeouts: {{head: 1m, body: 1m}}  # on a machine that is full the clients are slow
shedding: {{cpu_pressure: {{signal: none}}}}
log: {{access: none}}
"""


# Each request has a path of its own, so each is asked for.
SHARING: Final = """
store: '{store}'
store_options: {{deadline: 2s, entries: 1M}}
limits: [{{name: per-path, per: path, rate: 100/10s}}]
"""


@pytest.fixture
def server_url(tmp_path: Path) -> Iterator[str]:
    port = free_port()
    program = str(Path(__file__).with_name("answers.py"))
    with Process("answers", [sys.executable, program, str(port)], tmp_path) as server:
        server.wait_for_port(port)
        yield f"http://{LOOPBACK}:{port}"
        assert server.exit_code is None
        assert server.stderr == ""


def run(port: int, seed: int, answers: int) -> Soak:
    return uvloop.run(soak(port, seed, clients=CLIENTS, answers=answers))


def descriptors(daemon: Daemon) -> list[int]:
    return [len(os.listdir(f"/proc/{pid}/fd")) for pid in daemon.workers()]


@pytest.mark.parametrize("answers", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_every_answer_belongs_to_its_request(
    start_daemon: StartDaemon, server_url: str, tmp_path: Path, answers: int
) -> None:
    seed = int(os.environ.get("SOAK_SEED", "1"))
    print(f"SOAK_SEED={seed}")
    file = tmp_path / "ratelimitd.yaml"
    file.write_text(
        CONFIG.format(url=server_url) + "limits: [{name: per-client, per: client, rate: 1000M/h}]\n"
    )
    judge(start_daemon("-c", str(file), workers=2), seed, answers)


@contextlib.contextmanager
def cutting(way: StoreProxy) -> Iterator[None]:
    """The store is slow, and lost for a moment again and again."""
    stop = threading.Event()

    def cut() -> None:
        while not stop.wait(CUT_EVERY_S):
            way.cut()

    way.delay_replies(STORE_DELAY_S)
    thread = threading.Thread(target=cut)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("answers", [2_000, pytest.param(50_000, marks=pytest.mark.slow)])
def test_so_it_does_where_each_waits_for_a_store(
    start_daemon: StartDaemon, server_url: str, tmp_path: Path, answers: int
) -> None:
    seed = int(os.environ.get("SOAK_SEED", "1"))
    print(f"SOAK_SEED={seed}")
    file = tmp_path / "ratelimitd.yaml"
    with Redis(tmp_path / "redis") as redis, StoreProxy(redis.port) as way:
        file.write_text(CONFIG.format(url=server_url) + SHARING.format(store=way.url))
        daemon = start_daemon("-c", str(file), workers=2)
        wait_until(lambda: daemon.metrics().total("ratelimitd_store_up") == 1, "the store is up")
        with cutting(way):
            judge(daemon, seed, answers)
        calls = daemon.metrics().total("ratelimitd_store_calls_total", result="ok")
        assert calls > answers / 4, "they were asked for"


def judge(daemon: Daemon, seed: int, answers: int) -> None:
    before = descriptors(daemon)
    run(daemon.port, seed, answers // 3)
    memory = [own_kib(pid) for pid in daemon.workers()]
    done = run(daemon.port, seed + 1, answers - answers // 3)
    assert done.cut
    assert done.left
    metrics = daemon.settled_metrics()
    assert metrics.total("ratelimitd_requests_total", outcome="forwarded") >= answers
    assert metrics.total("ratelimitd_worker_restarts_total") == 0
    wait_until(lambda: descriptors(daemon) <= before, "every descriptor is given back")
    grown = [own_kib(pid) - kib for pid, kib in zip(daemon.workers(), memory, strict=True)]
    assert max(grown) < GROWTH_KIB, grown
