"""Ticks come at their rate and say how late they are; the lag is made of that."""

from __future__ import annotations

import time

import uvloop

from ratelimitd.proxy.shedding import Median
from ratelimitd.proxy.ticks import Ticks

EVERY_MS = 10


def ticks_while(hold_up_s: float, lasting_s: float) -> tuple[list[tuple[int, int]], float]:
    """(lateness, count) of the ticks of a loop in which each turn takes `hold_up_s`, and how long it ran."""
    found: list[tuple[int, int]] = []
    loop = uvloop.new_event_loop()
    ticks = Ticks(loop, lambda late_us, count: found.append((late_us, count)), EVERY_MS)
    start_s = time.monotonic()
    end_s = start_s + lasting_s

    def turn() -> None:
        time.sleep(hold_up_s)
        if time.monotonic() < end_s:
            loop.call_soon(turn)
        else:
            loop.stop()

    loop.call_soon(turn)
    loop.run_forever()
    took_s = time.monotonic() - start_s
    ticks.close()
    loop.close()
    return found, took_s


def test_the_counts_add_up_to_the_time_that_passed() -> None:
    for hold_up_s in (0.001, 0.025):
        found, took_s = ticks_while(hold_up_s, 0.5)
        told_s = sum(count for _, count in found) * EVERY_MS / 1000
        assert took_s / 2 < told_s <= took_s + 0.001


def test_a_loop_that_is_held_up_is_late_by_no_more_than_that() -> None:
    found, _ = ticks_while(0.04, 0.6)
    assert all(count >= 3 for _, count in found[1:])
    lateness = sorted(late_us for late_us, _ in found)
    assert 20_000 < lateness[len(lateness) // 2] < 100_000


def test_the_lag_is_the_median_of_five_ticks() -> None:
    lag, found = Median(), []
    for late_us in (900, 900, 3, 2, 800):
        lag.note(late_us)
        found.append(lag.value)
    assert found == [0, 0, 3, 3, 800]
