"""The judge of logs is judged: by hand, and against every window that there is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.windows import exact_admissions, worst_window


@pytest.mark.parametrize(
    ("instants", "count", "last"),
    [
        ([], 0, 0),
        ([7], 1, 7),
        ([0, 10], 1, 0),  # one length apart: never together
        ([0, 9], 2, 9),
        ([10, 0, 9], 2, 9),  # not in order
        ([0, 5, 5, 5, 14, 15, 100], 4, 5),
        ([0, 5, 5, 5, 14, 14, 15, 100], 5, 14),
    ],
)
def test_worst_window(instants: list[int], count: int, last: int) -> None:
    assert worst_window(instants, 10) == (count, last)


@given(st.lists(st.integers(0, 60)), st.integers(1, 20))
def test_no_window_holds_more_than_the_worst(instants: list[int], length: int) -> None:
    counts = [sum(x < instant <= x + length for instant in instants) for x in range(-21, 61)]
    assert worst_window(instants, length).size == max(counts)


@given(st.lists(st.integers(0, 60)), st.integers(1, 5), st.integers(1, 20))
def test_what_a_whole_log_admits(arrivals: list[int], limit: int, length: int) -> None:
    """It fills the limit and never exceeds it: each arrival that is refused finds a full window."""
    admitted: list[int] = []
    for instant in sorted(arrivals):
        if sum(instant - length < other for other in admitted) < limit:
            admitted.append(instant)
    assert exact_admissions(arrivals, limit, length) == len(admitted)
    assert worst_window(admitted, length).size <= limit
