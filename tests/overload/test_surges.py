"""One start and one end per surge, however the level swings."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.overload.surges import HOLD_US, Ended, Started, Surge, follow

EVERY_US = 250_000


def events(levels: list[float]) -> list[tuple[int, Started | Ended]]:
    """(position of the sample, event) of all that there is to say."""
    surge: Surge | None = None
    found = []
    for position, level in enumerate(levels):
        surge, event = follow(surge, level, (position + 1) * EVERY_US)
        if event is not None:
            found.append((position, event))
    return found


def test_a_level_that_swings_through_nothing_is_one_surge() -> None:
    levels = [0.0, 0.1, 0.4, 0.0, 0.0, 0.2, *[0.0] * 19]
    assert events(levels) == [(1, Started(0.1))]
    assert events([*levels, 0.0]) == [(1, Started(0.1)), (25, Ended(4 * EVERY_US, 0.4))]


@given(st.lists(st.sampled_from([0.0, 0.0, 0.0, 0.3]), max_size=200))
def test_starts_and_ends_take_turns_and_ends_come_after_the_hold(levels: list[float]) -> None:
    found = events(levels)
    for number, (position, event) in enumerate(found):
        assert isinstance(event, Started if number % 2 == 0 else Ended)
        if isinstance(event, Ended):
            calm = levels[position - HOLD_US // EVERY_US + 1 : position + 1]
            assert calm == [0.0] * (HOLD_US // EVERY_US)
    if any(levels) and levels[-1] > 0:
        assert len(found) % 2 == 1
