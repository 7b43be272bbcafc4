"""Who passes at a level: what is cut is what the level says, and never from a class above one that passes."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.overload.priorities import ALL, passing

LEVELS = st.floats(0.0, 1.0)
ARRIVALS = st.lists(st.integers(0, 1_000_000), min_size=4, max_size=4)


@given(level=LEVELS, arrivals=ARRIVALS)
def test_the_level_is_the_share_of_all_that_is_refused(level: float, arrivals: list[int]) -> None:
    shares = passing(level, arrivals)
    refused = sum((1 - share) * arrived for share, arrived in zip(shares, arrivals, strict=True))
    assert abs(refused - level * sum(arrivals)) <= 1e-6 * (1 + sum(arrivals))


@given(level=LEVELS, arrivals=ARRIVALS)
def test_a_class_is_cut_only_when_all_below_it_are_gone(level: float, arrivals: list[int]) -> None:
    shares = passing(level, arrivals)
    assert all(0.0 <= share <= 1.0 for share in shares)
    for above, below in itertools.pairwise(shares):
        assert above == 1.0 or below == 0.0


def test_examples() -> None:
    assert passing(0.0, (10, 10, 10, 10)) == ALL
    assert passing(1.0, (10, 10, 10, 10)) == (0.0, 0.0, 0.0, 0.0)
    assert passing(0.5, (10, 0, 0, 10)) == (1.0, 1.0, 1.0, 0.0)
    assert passing(0.25, (0, 0, 80, 20)) == (1.0, 1.0, 1 - 5 / 80, 0.0)
    # Nobody asked for what is sheddable, and the cut lies above it: it would not pass.
    assert passing(0.5, (50, 0, 50, 0)) == (1.0, 1.0, 0.0, 0.0)
    assert passing(0.7, (0, 0, 0, 0)) == ALL
