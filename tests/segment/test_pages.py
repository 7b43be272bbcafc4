"""Folding a page loses no count and keeps no gauge."""

from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.segment import layout
from ratelimitd.segment.memory import Segment
from ratelimitd.segment.pages import fold
from ratelimitd.segment.series import METRICS, Kind

LABELS = st.tuples(st.sampled_from(sorted(METRICS)), st.sampled_from(["a", "b"]))


@given(writes=st.lists(st.tuples(LABELS, st.integers(2, 4), st.integers(0, 10_000)), max_size=30))
def test_counters_move_to_the_base_and_gauges_go(writes: list[tuple[tuple[str, str], int, int]]) -> None:
    segment = Segment.create(entries=100, pages=5)
    for (name, label), index, value in writes:
        metric = METRICS[name]
        slot = segment.registry.series(name, (label,), metric.width)
        segment.page(index).slots[slot + metric.width - 1] += value
    all_series = segment.registry.all_series()
    base = segment.page(layout.BASE_PAGE)

    def totals(kinds: set[Kind]) -> list[int]:
        return [
            sum(segment.page(index).slots[slot] for index in range(5))
            for series in all_series
            if METRICS[series.metric].kind in kinds
            for slot in range(series.slot, series.slot + series.width)
        ]

    counters = {Kind.COUNTER, Kind.HISTOGRAM}
    before = totals(counters)
    for index in range(2, 5):
        fold(segment.page(index), base, all_series)
        assert totals(counters) == before
    assert set(totals({Kind.GAUGE})) <= {0}
    segment.close()


def test_a_folded_page_is_free() -> None:
    segment = Segment.create(entries=100, pages=3)
    page = segment.page(2)
    page.claim(4711)
    page.beat(99, lag_us=5, waiting_us=7)
    assert (page.owner, page.heartbeat_us, page.lag_us, page.waiting_us) == (4711, 99, 5, 7)
    fold(page, segment.page(layout.BASE_PAGE), segment.registry.all_series())
    assert (page.owner, page.heartbeat_us, page.lag_us) == (0, 0, 0)
    assert not any(page.slots)


def test_widths_follow_from_bounds() -> None:
    for metric in METRICS.values():
        assert metric.bounds_us == tuple(sorted(set(metric.bounds_us)))
        assert (metric.width > 1) == (metric.kind is Kind.HISTOGRAM)
