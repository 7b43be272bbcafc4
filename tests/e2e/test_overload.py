"""A real overload: one worker is asked for more than it can proxy, by clients that do not slow down.

The load has intended send times, so what waits for a connection is counted too. What passes stays near what
is possible at the cost of a refusal, the critical class passes whole, what passes waits briefly, and the
level returns to 0 soon after the end. What is possible is measured first, with the same clients.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ratelimitd.segment.memory import boottime_us
from ratelimitd.segment.shedding import ShedOrder
from tests.conftest import StartDaemon
from tests.daemon import Daemon
from tests.e2e.orders import stopped
from tests.load import wrk
from tests.open_loop import Load, open_loop
from tests.quota import part_of_a_cpu
from tests.servers import Nginx, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timing]

FILE = """
upstreams: {web: {servers: ["%s"], concurrency: unlimited, keepalive: 4000, keepalive_idle: 30s}}
routes:
  - {match: {path: /pay}, upstream: web, priority: critical}
  - {match: {path: /feed}, upstream: web, priority: sheddable}
bounds: {connections_per_client: 10000}
log: {access: none}
shedding: {cpu_pressure: {signal: %s}}
limits: [%s]
"""
# So that a request is dear beside its refusal, as it is with a configuration that somebody needs.
LIMITS = ", ".join(f"{{name: limit-{i}, per: client, rate: 100M/h}}" for i in range(15))
CONNECTIONS = 5000
ONE, OTHER = 0, 1  # the CPU of the worker, and that of everybody else


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a worker that sheds nothing proxies per second, and what a refusal costs it in requests."""

    capacity: float
    refusal: float

    def possible(self, offered: float) -> float:
        return min(offered, (self.capacity - self.refusal * offered) / (1 - self.refusal))


def pin(pid: int, cpu: int) -> None:
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {cpu})


@pytest.fixture(autouse=True)
def apart(nginx: Nginx) -> Iterator[None]:
    """Everything but the worker on the other CPU."""
    before = os.sched_getaffinity(0)
    if len(before) < 2:
        pytest.skip("needs two CPUs")
    os.sched_setaffinity(0, {OTHER})
    children = Path(f"/proc/{nginx.pid}/task/{nginx.pid}/children").read_text().split()
    for pid in [nginx.pid, *map(int, children)]:
        pin(pid, OTHER)
    yield
    os.sched_setaffinity(0, before)


def daemon_with(start_daemon: StartDaemon, nginx: Nginx, directory: Path, signal: str) -> Daemon:
    file = directory / f"{signal}.yaml"
    file.write_text(FILE % (nginx.url, signal, LIMITS))
    daemon = start_daemon("-c", str(file))
    pin(daemon.workers()[0], ONE)
    return daemon


@contextlib.contextmanager
def refusing_all(daemon: Daemon) -> Iterator[None]:
    """Everything is shed, by an order that is renewed."""
    over = threading.Event()
    with stopped(daemon) as words, ThreadPoolExecutor(1) as pool:

        def renew() -> None:
            while True:
                words.write(ShedOrder((0, 0, 0, 0), 1_000_000, 0, boottime_us()))
                if over.wait(0.2):
                    return

        renewing = pool.submit(renew)
        time.sleep(0.2)
        yield
        over.set()
        renewing.result()


def measured(daemon: Daemon) -> Cost:
    proxied = open_loop(daemon.port, rate=0, seconds=3, connections=CONNECTIONS)
    with refusing_all(daemon):
        refused = open_loop(daemon.port, rate=0, seconds=3, connections=CONNECTIONS)
    assert refused.refused > 0.95 * (refused.ok + refused.refused)
    return Cost(proxied.ok / 3, min(0.9, proxied.ok / refused.refused))


def surge(daemon: Daemon, rate: float, seconds: float) -> Load:
    """The load, and the way back of the level."""
    load = open_loop(daemon.port, rate=rate, seconds=seconds, connections=CONNECTIONS)
    wait_until(lambda: daemon.metrics().total("ratelimitd_shed_level") == 0, "the level is 0", 10.0)
    assert daemon.metrics().total("ratelimitd_worker_restarts_total") == 0, "a full worker is no dead one"
    assert "shedding starts" in daemon.stderr
    wait_until(lambda: "shedding ended" in daemon.stderr, "the end is said")
    return load


@contextlib.contextmanager
def busy_loops(count: int, nice: int) -> Iterator[None]:
    """Programs that want the CPU of the worker."""
    command = ["nice", "-n", str(nice), "taskset", "-c", str(ONE), sys.executable, "-c", "while True: pass"]
    loops = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


@pytest.mark.parametrize("neighbours", [0, 1])
def test_half_as_much_again_as_fits(
    start_daemon: StartDaemon, nginx: Nginx, tmp_path: Path, neighbours: int
) -> None:
    """With a CPU of its own, and with half of one."""
    with busy_loops(neighbours, nice=0):
        cost = measured(daemon_with(start_daemon, nginx, tmp_path, "none"))
        offered = 1.5 * cost.capacity
        daemon = daemon_with(start_daemon, nginx, tmp_path, "workers")
        load = surge(daemon, offered, seconds=20)
    said = f"{cost} possible={cost.possible(offered):.0f} {load}"
    print(said)
    assert load.critical.refused <= 0.01 * load.critical.due, said
    assert load.ok / 20 >= 0.85 * cost.possible(offered), said
    assert load.p50_us <= 30_000, said
    assert load.sheddable.first_refusal_us <= 2_000_000, said


def test_a_surge_under_a_quota(start_daemon: StartDaemon, nginx: Nginx, tmp_path: Path) -> None:
    """A quota's pauses are waits that nobody can shed: what passes waits for two or three of them."""
    daemon = daemon_with(start_daemon, nginx, tmp_path, "none")
    with part_of_a_cpu(0.2, daemon.workers()[0]):
        cost = measured(daemon)
    offered = 1.3 * cost.capacity
    daemon = daemon_with(start_daemon, nginx, tmp_path, "workers")
    with part_of_a_cpu(0.2, daemon.workers()[0]):
        load = surge(daemon, offered, seconds=20)
    said = f"{cost} possible={cost.possible(offered):.0f} {load}"
    print(said)
    assert load.critical.refused <= 0.01 * load.critical.due, said
    assert load.ok / 20 >= 0.5 * cost.possible(offered), said
    assert load.p50_us <= 300_000, said


def test_full_workers_that_are_in_time_shed_nothing(
    start_daemon: StartDaemon, nginx: Nginx, tmp_path: Path
) -> None:
    """Under a quota, whose pauses make them late; and from a cold start beside jobs that harm nobody."""
    daemon = daemon_with(start_daemon, nginx, tmp_path, "workers")
    with part_of_a_cpu(0.2, daemon.workers()[0]):
        assert wrk(f"{daemon.url}/feed", connections=64, seconds=4).refused == 0
    daemon = daemon_with(start_daemon, nginx, tmp_path, "workers")
    with busy_loops(3, nice=19):
        assert wrk(f"{daemon.url}/feed", connections=256, seconds=4).refused == 0
