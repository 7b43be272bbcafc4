"""Ids and slots: given once, the same for everybody, never given twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.errors import SegmentError
from ratelimitd.segment import layout
from ratelimitd.segment.memory import Segment

NAMES = st.text(min_size=1, max_size=20)


@given(limits=st.lists(st.tuples(NAMES, st.integers(1, 2**40))))
def test_every_process_knows_a_limit_by_the_same_id(limits: list[tuple[str, int]]) -> None:
    made = Segment.create(entries=100, pages=2)
    seen = Segment.attach(made.fd)
    ids = {limit: made.registry.limit_id(*limit) for limit in limits}
    assert sorted(ids.values()) == list(range(1, len(ids) + 1))
    assert {limit: seen.registry.limit_id(*limit) for limit in limits} == ids
    assert {limit: made.registry.limit_id(*limit) for limit in limits} == ids
    assert made.registry.limits() == ids
    made.close()


@given(series=st.lists(st.tuples(NAMES, st.lists(NAMES, max_size=3).map(tuple), st.integers(1, 20))))
def test_slots_of_series_never_overlap(series: list[tuple[str, tuple[str, ...], int]]) -> None:
    made = Segment.create(entries=100, pages=2)
    taken: dict[int, tuple[str, tuple[str, ...]]] = {}
    for metric, labels, width in series:
        made.registry.series(metric, labels, width)
    for entry in made.registry.all_series():
        for slot in range(entry.slot, entry.slot + entry.width):
            assert slot not in taken
            taken[slot] = (entry.metric, entry.labels)
    seen = Segment.attach(made.fd)
    assert seen.registry.all_series() == made.registry.all_series()
    made.close()


def test_the_attached_side_does_not_register() -> None:
    seen = Segment.attach(Segment.create(entries=100, pages=2).fd)
    with pytest.raises(KeyError):
        seen.registry.limit_id("per-client", 10_000_000)
    with pytest.raises(KeyError):
        seen.registry.series("ratelimitd_bytes_total", ("in",))


def test_names_registered_later_are_found() -> None:
    made = Segment.create(entries=100, pages=2)
    seen = Segment.attach(made.fd)
    slot = made.registry.series("ratelimitd_bytes_total", ("out",))
    assert seen.registry.series("ratelimitd_bytes_total", ("out",)) == slot


def test_a_full_page_says_what_to_do() -> None:
    made = Segment.create(entries=100, pages=2)
    made.registry.series("wide", (), layout.SLOTS_PER_PAGE)
    with pytest.raises(SegmentError, match="fewer limits"):
        made.registry.series("one more", ())


def test_ids_run_out_with_a_message() -> None:
    made = Segment.create(entries=100, pages=2)
    for window_us in range(1, layout.MAX_LIMIT_ID + 1):
        made.registry.limit_id("x", window_us)
    with pytest.raises(SegmentError, match="restart"):
        made.registry.limit_id("y", 1)
