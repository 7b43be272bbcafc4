"""What waits in a real loop is found in CPU time, and only what waits all the time."""

from __future__ import annotations

import asyncio
import os
import time

import pytest
import uvloop

from ratelimitd.proxy.backlog import Backlog

BUSY_NS = 4_000_000


def burn() -> None:
    until = time.thread_time_ns() + BUSY_NS
    while time.thread_time_ns() < until:
        pass


async def least_us(ticks: int, ready: int, pause_s: float = 0.0) -> int:
    """What is found while as many descriptors are always ready, each of which costs 4 ms of CPU."""
    loop = asyncio.get_running_loop()
    backlog = Backlog(loop)
    descriptors = [os.eventfd(1) for _ in range(ready)]

    def serve() -> None:
        burn()
        time.sleep(pause_s)

    for descriptor in descriptors:
        loop.add_reader(descriptor, serve)
    for _ in range(ticks):
        backlog.measure()
        await asyncio.sleep(0.1)
    for descriptor in descriptors:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    found = backlog.least_us
    backlog.close()
    return found


def test_nothing_waits_in_an_idle_loop() -> None:
    assert uvloop.run(least_us(6, ready=0)) < 4_000


@pytest.mark.parametrize("pause_s", [0.0, 0.01])
def test_what_is_always_ready_is_found_whatever_stops_the_process(pause_s: float) -> None:
    """What is ready, and not the pauses: three of them are 12 ms of CPU, and with their pauses 42 ms long."""
    found_us = uvloop.run(least_us(7, ready=3, pause_s=pause_s))
    assert 4_000 <= found_us < 30_000


def test_one_moment_with_little_to_do_is_the_least() -> None:
    async def run() -> int:
        loop = asyncio.get_running_loop()
        backlog = Backlog(loop)
        for tick in range(8):
            backlog.measure()
            if tick != 6:
                loop.call_soon(burn)
            await asyncio.sleep(0.02)
        found = backlog.least_us
        backlog.close()
        return found

    assert uvloop.run(run()) < 4_000
