"""The wheel of a worker turns without a clock of its own; what it lets expire is tested through the daemon
(tests/proxy/test_timeouts.py)."""

from __future__ import annotations

from ratelimitd.proxy.deadlines import Wheel


def test_a_wheel_turns_to_the_tick_it_is_given() -> None:
    wheel = Wheel(50)
    assert (wheel.tick_ms, wheel.now) == (50, 1)
    for tick in (2, 2, 1, 1_023, 1_024, 5_000):
        before = wheel.now
        wheel.advance(tick)
        assert wheel.now == max(before, tick)
