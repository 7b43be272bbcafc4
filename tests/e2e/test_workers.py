"""A worker that dies or hangs under load is replaced, and nobody else notices.

The replacement comes within a second (within four when it hangs: three seconds without a heartbeat), no
counter goes back, the limit holds across the death, and connections of other workers lose no request.
"""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from tests.conftest import StartDaemon
from tests.daemon import Daemon, has_ended
from tests.e2e.steady import SteadyLoad, note_workers
from tests.e2e.watch import Watch
from tests.servers import Nginx

pytestmark = pytest.mark.timing

CONNECTIONS = 24
LIMIT = 8_000


async def replaced(daemon: Daemon, before: set[int], victim: int, timeout_s: float) -> None:
    """Returns when another process stands in for `victim` and the daemon says that all its workers serve."""
    async with asyncio.timeout(timeout_s):
        while True:
            now = set(daemon.workers())
            if now - before and victim not in now and await asyncio.to_thread(is_whole, daemon, len(before)):
                return
            await asyncio.sleep(0.01)


def is_whole(daemon: Daemon, workers: int) -> bool:
    return daemon.metrics().total("ratelimitd_workers") == workers


async def strike_each_worker(daemon: Daemon, number: signal.Signals, within_s: float) -> None:
    load, watch = SteadyLoad(daemon.port, CONNECTIONS), Watch(daemon)
    load.start()
    watch.start()
    victims = sorted(daemon.workers())
    for victim in victims:
        workers = set(daemon.workers())
        async with asyncio.timeout(5):
            while not workers <= {c.worker for c in load.live() if c.answers}:
                await asyncio.sleep(0.05)
                note_workers(load, workers)
        others = [c for c in load.live() if c.answers and c.worker not in {0, victim}]
        assert others, "no connection on the other worker"
        answered = {id(c): c.answers.total() for c in others}
        os.kill(victim, number)
        await replaced(daemon, workers, victim, within_s)
        assert has_ended(victim)
        assert [c for c in others if c.lost] == [], "the other worker lost requests"
        assert all(c.answers.total() > answered[id(c)] for c in others), "the other worker stood still"
    async with asyncio.timeout(20):
        while not load.answers()[429]:
            await asyncio.sleep(0.05)
    await load.stop()
    await watch.stop()
    assert watch.gone_back == []
    assert watch.scrapes > 5
    assert load.answers().keys() <= {200, 429}
    lost = [c for c in load.connections if c.lost]
    assert {c.worker for c in lost} <= {0, *victims}, "a worker that nobody struck lost requests"
    assert LIMIT - len(lost) <= load.answers()[200] <= LIMIT


def run(start_daemon: StartDaemon, nginx: Nginx, number: signal.Signals, within_s: float) -> None:
    daemon = start_daemon("--upstream", nginx.url, "--limit", f"global={LIMIT}/1h", workers=2)
    asyncio.run(strike_each_worker(daemon, number, within_s))
    metrics = daemon.settled_metrics()
    assert metrics.total("ratelimitd_worker_restarts_total") == 2
    allowed = metrics.total("ratelimitd_limit_decisions_total", limit="global", decision="allowed")
    assert allowed <= LIMIT


def test_killed_workers_are_replaced_within_a_second(start_daemon: StartDaemon, nginx: Nginx) -> None:
    run(start_daemon, nginx, signal.SIGKILL, within_s=1.0)


def test_stuck_workers_are_replaced_within_four_seconds(start_daemon: StartDaemon, nginx: Nginx) -> None:
    run(start_daemon, nginx, signal.SIGSTOP, within_s=4.0)
