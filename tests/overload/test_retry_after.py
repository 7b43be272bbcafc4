"""The spread of Retry-After: within its bounds, wider the more was shed and the less is spare."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.overload.retry_after import MOST_SPREAD_S, spare_per_s, spread_s

COUNTS = st.integers(0, 10_000_000)
RATES = st.floats(0.0, 1e7)


@given(shed=COUNTS, more=COUNTS, spare=RATES)
def test_it_is_wider_the_more_was_shed(shed: int, more: int, spare: float) -> None:
    assert 0 <= spread_s(shed, spare) <= spread_s(shed + more, spare) <= MOST_SPREAD_S


@given(shed=COUNTS, spare=RATES, more=RATES)
def test_it_is_narrower_the_more_is_spare(shed: int, spare: float, more: float) -> None:
    assert spread_s(shed, spare + more) <= spread_s(shed, spare)


@given(admitted=RATES, refused=RATES, busy=st.floats(0.0, 1.0))
def test_spare_is_never_below_a_tenth_of_what_is_admitted(
    admitted: float, refused: float, busy: float
) -> None:
    assert spare_per_s(admitted, admitted + refused, busy) >= 0.0999 * admitted


def test_examples() -> None:
    assert spread_s(0, 0.0) == 0
    assert spread_s(1, 0.0) == MOST_SPREAD_S
    assert spread_s(1000, 250.0) == 4
    assert spread_s(1001, 250.0) == 5
    assert spare_per_s(500.0, 500.0, 0.5) == 500.0
    assert spare_per_s(1000.0, 2000.0, 1.0) == 100.0
