"""A real overload: a worker that is held to a part of a CPU is asked for more than it can proxy.

What passes stays near what is possible at the cost of a refusal, the critical class passes whole, and the
level returns to 0 soon after the end. What is possible is measured first, with the same tools.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from ratelimitd.segment.memory import boottime_us
from ratelimitd.segment.shedding import ShedOrder
from tests.conftest import StartDaemon
from tests.daemon import Daemon
from tests.e2e.orders import stopped
from tests.load import Wrk, wrk
from tests.quota import part_of_a_cpu
from tests.servers import Nginx, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timing]

FILE = """
upstreams: {web: {servers: ["%s"], concurrency: unlimited, keepalive: 2000, keepalive_idle: 30s}}
routes:
  - {match: {path: /pay}, upstream: web, priority: critical}
  - {match: {path: /feed}, upstream: web, priority: sheddable}
bounds: {connections_per_client: 10000}
log: {access: none}
shedding: {cpu_pressure: {signal: %s}}
"""
SHARE = 0.2
SURGE = 1.3  # times what the worker can proxy; where a refusal costs 0.6 of a request, 1.7 is the end
CRITICAL = 0.1  # of the requests
SECONDS = 10.0


@dataclasses.dataclass(frozen=True)
class Passed:
    """Requests per second while the load was on."""

    forwarded: float
    shed: float


def daemon_with(start_daemon: StartDaemon, nginx: Nginx, directory: Path, signal: str) -> Daemon:
    file = directory / f"{signal}.yaml"
    file.write_text(FILE % (nginx.url, signal))
    return start_daemon("-c", str(file))


@contextlib.contextmanager
def surge(daemon: Daemon, rate: float) -> Iterator[tuple[Future[Wrk], Future[Wrk]]]:
    """What the clients of /feed and of /pay count, who send `rate` requests a second together."""
    with ThreadPoolExecutor(2) as pool:

        def load(path: str, rate: float) -> Wrk:
            return wrk(f"{daemon.url}{path}", connections=round(rate / 5), seconds=SECONDS, rate=rate)

        yield pool.submit(load, "/feed", (1 - CRITICAL) * rate), pool.submit(load, "/pay", CRITICAL * rate)


def passed(daemon: Daemon, seconds: float) -> Passed:
    """Counted by the daemon over the next `seconds`."""
    before, start_s = daemon.metrics(), time.monotonic()
    wait_until(lambda: time.monotonic() >= start_s + seconds, "the load goes on", seconds + 1)
    after, took_s = daemon.metrics(), time.monotonic() - start_s
    name = "ratelimitd_requests_total"
    forwarded, shed = (
        (after.total(name, outcome=outcome) - before.total(name, outcome=outcome)) / took_s
        for outcome in ("forwarded", "shed")
    )
    return Passed(forwarded, shed)


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
        yield
        over.set()
        renewing.result()


def capacity_and_cost(daemon: Daemon) -> tuple[float, float]:
    """What a worker that sheds nothing proxies per second, and what a refusal costs it in requests."""
    proxied = wrk(f"{daemon.url}/feed", connections=200, seconds=3)
    with refusing_all(daemon):
        refused = wrk(f"{daemon.url}/feed", connections=200, seconds=3)
    assert refused.refused > 0.95 * refused.requests
    return proxied.rate, min(0.9, proxied.rate / refused.rate)


def test_a_surge_is_shed_and_what_passes_is_what_is_possible(
    start_daemon: StartDaemon, nginx: Nginx, tmp_path: Path
) -> None:
    daemon = daemon_with(start_daemon, nginx, tmp_path, "none")
    with part_of_a_cpu(SHARE, daemon.workers()[0]):
        capacity, cost = capacity_and_cost(daemon)
    daemon = daemon_with(start_daemon, nginx, tmp_path, "workers")
    with part_of_a_cpu(SHARE, daemon.workers()[0]):
        with surge(daemon, SURGE * capacity) as (_, pay):
            wait_until(lambda: daemon.metrics().total("ratelimitd_shed_level") > 0, "the first shed", 4.0)
            found = passed(daemon, SECONDS - 4)
        wait_until(lambda: daemon.metrics().total("ratelimitd_shed_level") == 0, "the level is 0", 10.0)
    offered = found.forwarded + found.shed
    possible = min(offered, (capacity - cost * offered) / (1 - cost))
    said = f"{capacity=:.0f} {cost=:.2f} {found} {possible=:.0f} {pay.result()}"
    print(said)
    assert found.shed > 0.05 * found.forwarded, said
    assert found.forwarded >= 0.85 * possible, said
    assert pay.result().refused <= 0.01 * pay.result().requests, said
    assert daemon.metrics().total("ratelimitd_worker_restarts_total") == 0, "a full worker is no dead one"
    assert "shedding starts" in daemon.stderr
    wait_until(lambda: "shedding ended" in daemon.stderr, "the end is said")
