"""The parts of a segment never overlap, and a table holds what was asked for."""

from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.limits.table_values import shape
from ratelimitd.segment import layout


@given(entries=st.integers(1, 100_000_000), pages=st.integers(2, 1000))
def test_parts_lie_behind_each_other_on_page_boundaries(entries: int, pages: int) -> None:
    plan = layout.layout(entries, pages)
    parts = [
        (plan.table.offset, shape(entries).size),
        (plan.limits, layout.LIMITS_SIZE),
        (plan.series, layout.SERIES_SIZE),
        (plan.pages, pages * layout.PAGE_SIZE),
        (plan.rings, pages * layout.RING_STRIDE),
    ]
    end = layout.HEADER_SIZE
    for offset, size in parts:
        assert offset >= end
        assert offset % 4096 == 0
        end = offset + size
    assert plan.size == end


def test_a_million_entries_take_what_the_manual_says() -> None:
    assert layout.layout(1_000_000, 2).limits < 133 * 1024 * 1024
