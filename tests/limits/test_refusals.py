"""Whom a worker refuses most is told, whatever else is refused around it."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.limits.refusals import Refusals

PLACES = 1024


def taken(refusals: Refusals) -> dict[bytes, int]:
    return {tail: count for _, tail, count in refusals.take()}


def test_what_is_taken_is_counted_once() -> None:
    refusals = Refusals()
    for _ in range(5):
        refusals.refused(1, "a", b"cone")
    refusals.refused(2, "b", b"ctwo")
    assert refusals.take() == [("a", b"cone", 5), ("b", b"ctwo", 1)]
    assert refusals.take() == []
    refusals.refused(1, "a", b"never made again")
    assert refusals.take() == [("a", b"cone", 1)]


@given(st.lists(st.integers(0, 2**64 - 1), max_size=300))
def test_never_more_is_told_than_happened(keys: list[int]) -> None:
    refusals = Refusals()
    for key in keys:
        refusals.refused(key, "a", b"c%d" % key)
    happened = Counter(b"c%d" % key for key in keys)
    for tail, count in taken(refusals).items():
        assert 0 < count <= happened[tail]


def test_who_is_refused_all_the_time_is_not_hidden_by_a_flood_of_others_in_its_place() -> None:
    refusals = Refusals()
    told = 0
    for other in range(1, 20_000):
        refusals.refused(7, "a", b"cheavy")
        refusals.refused(7, "a", b"cheavy")
        refusals.refused(7 + PLACES * other, "a", b"cother")
        if other % 1_000 == 0:
            told += taken(refusals).get(b"cheavy", 0)
    assert told > 30_000


def test_a_place_is_given_to_who_is_refused_now() -> None:
    refusals = Refusals()
    for _ in range(1_000):
        refusals.refused(7, "a", b"cearlier")
    for _ in range(30):  # half a minute without a refusal
        refusals.take()
    refusals.refused(7 + PLACES, "a", b"cnow")
    assert taken(refusals) == {b"cnow": 1}


def test_a_text_that_is_too_long_is_nobody() -> None:
    refusals = Refusals()
    refusals.refused(1, "a", b"h" + bytes(256))
    refusals.refused(2, "a", b"h" + bytes(255))
    assert taken(refusals) == {b"h" + bytes(255): 1}
