"""Whose turn it is among those that wait, against a model that looks at all of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.overload.retry_budget import RetryBudget
from ratelimitd.overload.waiting import Place, Waiting

SECOND = 20


def name(place: Place | None) -> object:
    return None if place is None else place.waiter


def test_the_highest_priority_goes_first_and_within_it_who_came_first() -> None:
    waiting = Waiting(10, 100)
    for waiter, priority in (("n1", 2), ("s1", 3), ("c1", 0), ("n2", 2), ("h1", 1), ("c2", 0)):
        assert waiting.enter(waiter, priority, 5)
    order = []
    while place := waiting.next(10):
        order.append(place.waiter)
        waiting.remove(place)
    assert order == ["c1", "c2", "h1", "n1", "n2", "s1"]


def test_a_queue_that_stands_serves_who_came_last() -> None:
    waiting = Waiting(10, 3)
    waiting.enter("old", 2, 1)
    waiting.enter("new", 2, 3)
    assert name(waiting.next(3)) == "old"
    assert name(waiting.next(4)) == "new"
    late = waiting.late(4)
    assert late is not None
    assert late.waiter == "old"
    waiting.remove(late)
    assert waiting.late(4) is None


def test_a_full_queue_says_who_might_leave() -> None:
    waiting = Waiting(2, 3)
    waiting.enter("low", 3, 1)
    waiting.enter("lower", 3, 2)
    assert waiting.enter("high", 1, 2) is None
    assert name(waiting.least(1)) == "low"
    assert waiting.least(3) is None


@pytest.mark.parametrize("waiting", [Waiting(0, 3), Waiting(3, 0)])
def test_without_places_or_time_nobody_waits(waiting: Waiting) -> None:
    assert waiting.enter("x", 0, 1) is None
    assert waiting.least(0) is None


@given(st.lists(st.tuples(st.sampled_from(["join", "turn", "late", "tick"]), st.integers(0, 3)), max_size=80))
def test_it_does_as_a_list_that_is_searched(steps: list[tuple[str, int]]) -> None:
    waiting, now, most = Waiting(5, 4), 1, 4
    model: list[tuple[int, int, Place]] = []  # priority, since, place
    standing = 0
    for step, number in steps:
        if step == "tick":
            now += number
        elif step == "join":
            place = waiting.enter(object(), number, now)
            assert (place is None) == (len(model) == 5)
            if place is not None:
                standing = standing if model else now
                model.append((number, now, place))
        else:
            if step == "turn":
                first = min((entry[0] for entry in model), default=0)
                line = [entry for entry in model if entry[0] == first]
                expected = line[-1 if now - standing >= most else 0] if line else None
                found = waiting.next(now)
            else:
                line = sorted((e for e in model if now - e[1] >= most), key=lambda entry: entry[0])
                expected, found = (line[0] if line else None), waiting.late(now)
            assert found is (expected and expected[2])
            if expected and found:
                waiting.remove(found)
                model.remove(expected)
        assert waiting.count == len(model)


# --- retries


def test_retries_are_a_share_of_the_requests_and_five() -> None:
    budget = RetryBudget(0.2, SECOND)
    now = 1
    assert [budget.try_again(now) for _ in range(6)] == [True] * 5 + [False]
    for _ in range(100):
        budget.ask(now)
    assert sum(budget.try_again(now) for _ in range(100)) == 20
    now += 11 * SECOND  # the requests are forgotten, and so are their retries
    assert sum(budget.try_again(now) for _ in range(100)) == 5


def test_a_budget_of_nothing_has_no_retries() -> None:
    budget = RetryBudget(0.0, SECOND)
    budget.ask(1)
    assert not budget.try_again(1)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3 * SECOND)), max_size=200))
def test_no_ten_seconds_have_more_retries_than_the_budget(steps: list[tuple[bool, int]]) -> None:
    budget, now = RetryBudget(0.5, SECOND), 1
    asked: list[int] = []
    again: list[int] = []
    for retries, passed in steps:
        now += passed
        if not retries:
            budget.ask(now)
            asked.append(now)
        elif budget.try_again(now):
            again.append(now)
            recent = [at for at in asked if at > now - 10 * SECOND]
            assert sum(at > now - 9 * SECOND for at in again) <= 0.5 * len(recent) + 5
