"""One limit over four daemons with two workers each, while clients ask random nodes and nodes die and come.

The logs of all nodes show no window over the limit, and under overload at least 95 % of what a limiter with a
whole log would have admitted of the same requests was admitted.
"""

from __future__ import annotations

import itertools
import threading
import time
from pathlib import Path

import pytest

from tests.e2e.fleet import Fleet, Rate, assert_answers, assert_within, fleet_of
from tests.fleet_load import BROKEN, Answer
from tests.redis_servers import Redis
from tests.servers import Nginx
from tests.windows import exact_admissions

NODES = 4


def kill_and_add(fleet: Fleet, seconds: float, pause_s: float) -> int:
    """Kills one node after the other, each a while after its predecessor was put back, which may not serve
    yet on a machine that is full; gives how many."""
    over = threading.Event()
    timer = threading.Timer(seconds, over.set)
    timer.start()
    try:
        for killed, index in enumerate(itertools.cycle(range(1, NODES))):  # node 0 lives through it all
            if over.wait(pause_s):
                return killed
            fleet.nodes[index].kill()
            if over.wait(pause_s):
                return killed + 1
            fleet.nodes[index].put_back()
    finally:
        timer.cancel()
    raise AssertionError("a cycle does not end")


def assert_used(answers: list[Answer], rate: Rate, paths: int) -> None:
    """At least 95 % of what a whole log would have admitted of the requests that were answered."""
    admitted = sum(answer.status == 200 for answer in answers)
    possible = 0
    for path in range(paths):
        sent = [a.sent_us for a in answers if a.path == path and a.status in (200, 429)]
        possible += exact_admissions(sent, rate.count, rate.window_us)
    assert admitted >= 0.95 * possible, f"{admitted} admitted, a whole log admits {possible}"


def run(directory: Path, upstream: str, rate: Rate, paths: int, load: float, seconds: float) -> None:
    """`load` requests a second for `seconds`, a node killed and put back some times meanwhile. What it holds
    is lost for a window, and is little once the limit is used up: a long window has to be filled before."""
    filled_s = rate.count * paths / load if rate.window_s > seconds / 2 else 0
    with Redis(directory / "redis") as redis:
        with fleet_of(
            directory, upstream, redis.url, [rate], nodes=NODES, workers=2, deadline_ms=1000
        ) as fleet:
            clients = fleet.load(rate.paths(paths), rate=load, seconds=seconds)
            time.sleep(filled_s)
            killed = kill_and_add(fleet, seconds - filled_s - 2, pause_s=max(2.0, seconds / 12))
            answers = clients.answers()
            fleet.wait_ready()
            admitted = fleet.admitted()
            survivor, said = fleet.nodes[0].daemon.metrics(), fleet.nodes[0].daemon.stderr
    assert killed >= 2
    assert_answers(answers, 200, 429, BROKEN)
    broken = [answer for answer in answers if answer.status == BROKEN and answer.node == 0]
    restarts = survivor.total("ratelimitd_worker_restarts_total")
    assert not broken, f"only killed nodes break connections: {broken}; {restarts:g} new workers; {said}"
    for name in ("ratelimitd_limit_exceptions_total", "ratelimitd_store_fallback_total"):
        assert survivor.total(name) == 0, f"{name}: the store was there all the time; {said}"
    assert_within(admitted, rate, rate.count)
    assert_used(answers, rate, paths)


def test_a_quarter_of_a_minute(tmp_path: Path, nginx: Nginx) -> None:
    run(tmp_path, nginx.url, Rate(10, 1), paths=10, load=200, seconds=15)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rate", "paths", "load"),
    [
        (Rate(10, 1), 20, 400),
        (Rate(100, 10), 20, 400),
        (Rate(1000, 60), 2, 150),
        (Rate(10_000, 1), 1, 13_000),
    ],
    ids=lambda value: f"{value.count}/{value.window_s:g}s" if isinstance(value, Rate) else "",
)
def test_a_minute(tmp_path: Path, nginx: Nginx, rate: Rate, paths: int, load: float) -> None:
    run(tmp_path, nginx.url, rate, paths, load, seconds=60)
