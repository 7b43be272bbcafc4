"""The locks of the table: held by somebody who does not come back, and ahead of the clock.

A refusal for a busy stripe is bounded and rare; a process that stood still is told so; a stripe whose latest
instant no clock can have written starts empty, and only such a one.
"""

from __future__ import annotations

import pytest

from ratelimitd.limits.table import Request, TableBusy
from tests.limits.tables import Mortal, TableMemory

SECOND = 1_000_000
NOW = 100 * SECOND


def test_a_stripe_that_is_held_refuses_after_one_wait_and_is_then_only_tried() -> None:
    memory = TableMemory(4)
    holder, table = Mortal(memory), memory.table
    requests = [Request(key, SECOND, 100) for key in range(4)]
    holder.lock(2)
    for _ in range(20):
        assert table.decide(requests, NOW).verdict == "timed out"
    assert table.counters().timeouts == 1
    for key in (0, 1, 3):
        assert table.decide([requests[key]], NOW).used == (1,)  # nothing was charged, nothing left locked
    with pytest.raises(TableBusy):
        table.peek(2, SECOND, NOW)
    holder.unlock(2)
    assert table.decide(requests, NOW).verdict == "admitted"


def test_a_stripe_that_came_back_is_waited_for_again() -> None:
    memory = TableMemory(1)
    holder, table, request = Mortal(memory), memory.table, Request(0, SECOND, 100)
    for waits in (1, 2):
        holder.lock(0)
        assert table.decide([request], NOW).verdict == "timed out"
        assert table.counters().timeouts == waits
        holder.unlock(0)
        assert table.decide([request], NOW).verdict == "admitted"


def test_a_stripe_is_waited_for_again_after_a_while() -> None:
    memory = TableMemory(1)
    holder, table = Mortal(memory), memory.table
    holder.lock(0)
    tries = 0
    while table.counters().timeouts < 2:
        assert table.decide([Request(0, SECOND, 100)], NOW).verdict == "timed out"
        tries += 1
    assert tries > 10
    holder.unlock(0)


def test_a_process_that_stood_still_reads_its_clock_and_decides() -> None:
    table = TableMemory().table
    request = Request(1, SECOND, 2)
    table.decide([request], NOW)
    stale = table.decide([request], NOW - SECOND - 1)
    assert (stale.verdict, stale.at_us) == ("stale", NOW)
    assert table.decide_again([request], NOW + 5, stale.at_us).used == (2,)
    assert table.counters().damaged_stripes == 0


def test_a_stripe_ahead_of_the_clock_is_damaged_and_starts_empty() -> None:
    memory = TableMemory(4)
    table = memory.table
    requests = [Request(key, SECOND, 2) for key in range(4)]
    table.decide(requests, NOW)
    memory.set_tmax(1, NOW + 3_600 * SECOND)
    memory.set_tmax(3, NOW + 7_200 * SECOND)
    decision = table.decide(requests, NOW)
    repeats = 0
    while decision.verdict == "stale":
        decision = table.decide_again(requests, NOW + 1, decision.at_us)
        repeats += 1
    assert (decision.verdict, decision.at_us, repeats) == ("admitted", NOW + 1, 2)
    assert decision.used == (2, 1, 2, 1)
    assert table.counters().damaged_stripes == 2


def test_a_stripe_that_moved_on_meanwhile_is_not_damaged() -> None:
    table = TableMemory().table
    request = Request(1, SECOND, 2)
    table.decide([request], NOW)
    ahead = table.decide([request], NOW - 2 * SECOND).at_us
    table.decide([request], NOW + SECOND // 2)  # by another process, while this one stands still
    decision = table.decide_again([request], ahead - 1, ahead)
    assert decision.verdict == "refused"
    assert table.counters().damaged_stripes == 0
