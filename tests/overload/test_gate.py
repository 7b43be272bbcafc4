"""The gate counts everybody, lets pass the shares it was told, and sends away for 1 to 30 s."""

from __future__ import annotations

import array
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratelimitd.overload.gate import Gate

MILLION = 1_000_000
SHARES = st.tuples(*[st.integers(0, MILLION)] * 4)


def new_gate(seed: int = 1) -> tuple[Gate, memoryview]:
    arrivals = memoryview(array.array("q", [0] * 4))
    return Gate(arrivals, seed), arrivals


def clients(number: int) -> list[bytes]:
    return [b"c192.0.2.%d" % n for n in range(number)]


def test_of_the_class_at_the_cut_who_uses_most_goes_first() -> None:
    """Twenty that ask once in a turn, and one that asks for as much as they all do: half of it passes."""
    gate, _ = new_gate(seed=7)
    light, heavy = clients(21)[:20], clients(21)[20]
    refused = {True: 0, False: 0}
    for turn in range(100):
        gate.set((MILLION, MILLION, 750_000, 0), 0)
        for client in light:
            refused[False] += not gate.ask(2, client) and turn > 20
            refused[True] += not gate.ask(2, heavy) and turn > 20
            assert gate.ask(1, heavy)
            assert not gate.ask(3, client)
    assert refused[False] == 0
    assert 0.4 < refused[True] / (79 * 20) < 0.6


def test_a_new_surge_begins_with_nobody_known() -> None:
    gate, _ = new_gate(seed=7)
    heavy = clients(1)[0]
    for passing in (250_000, MILLION, 500_000):
        gate.set((MILLION, MILLION, MILLION, passing), 0)
        passed = sum(gate.ask(3, heavy) for _ in range(10_000))
        assert abs(passed / 10_000 - passing / MILLION) < 0.03


@settings(max_examples=30)
@given(passing=SHARES, seed=st.integers(0, 2**64 - 1), priority=st.integers(0, 3))
def test_each_priority_passes_with_its_share(
    passing: tuple[int, int, int, int], seed: int, priority: int
) -> None:
    gate, arrivals = new_gate(seed)
    gate.set(passing, 0)
    asked = 20_000
    passed = sum(gate.ask(priority) for _ in range(asked))
    assert list(arrivals) == [asked if i == priority else 0 for i in range(4)]
    # Five standard deviations of a fair draw, at most.
    assert abs(passed / asked - passing[priority] / MILLION) < 5 * 0.5 / asked**0.5


def test_all_and_nothing_are_exact() -> None:
    gate, _ = new_gate()
    gate.set((MILLION, MILLION, 0, 0), 3)
    assert all(gate.ask(0) and gate.ask(1) for _ in range(10_000))
    assert not any(gate.ask(2) or gate.ask(3) for _ in range(10_000))


def test_it_is_open_until_told_and_when_told() -> None:
    gate, arrivals = new_gate()
    assert all(gate.ask(priority) for priority in range(4))
    gate.set((0, 0, 0, 0), 0)
    assert not any(gate.ask(priority) for priority in range(4))
    gate.open()
    assert all(gate.ask(priority) for priority in range(4))
    assert list(arrivals) == [3, 3, 3, 3]


@pytest.mark.parametrize("spread_s", [-1, 0, 1, 7, 29, 1000])
def test_every_second_of_the_spread_is_drawn_about_as_often(spread_s: int) -> None:
    gate, _ = new_gate(seed=20_26)
    gate.set((0, 0, 0, 0), spread_s)
    lines = Counter(gate.retry_after_line() for _ in range(30_000))
    seconds = set()
    for line, count in lines.items():
        found = re.fullmatch(rb"Retry-After: ([1-9]\d?)\r\n", line)
        assert found
        seconds.add(int(found[1]))
        assert 0.8 < count * len(lines) / 30_000 < 1.2
    assert seconds == set(range(1, 2 + max(0, min(spread_s, 29))))


def test_it_refuses_what_would_count_elsewhere() -> None:
    gate, _ = new_gate()
    with pytest.raises(ValueError):
        gate.ask(4)
    with pytest.raises(ValueError):
        Gate(memoryview(array.array("q", [0] * 3)), 1)
