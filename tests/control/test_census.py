"""The census finds every live entry, and makes no memory real by looking."""

import os

from hypothesis import given, settings
from hypothesis import strategies as st

from ratelimitd.control.census import Census
from ratelimitd.limits.table import Table
from ratelimitd.limits.table_values import Request
from ratelimitd.segment.memory import Segment, boottime_us

HOUR_US = 3_600_000_000


def _table(entries: int) -> tuple[Segment, Table]:
    segment = Segment.create(entries, pages=2)
    table = Table(
        segment.memory, segment.table.offset, segment.table.stripes, segment.table.buckets_per_stripe
    )
    table.initialise()
    return segment, table


@settings(max_examples=25)
@given(keys=st.sets(st.integers(1, 2**64 - 1), max_size=60), entries=st.sampled_from([1_000, 200_000]))
def test_every_live_entry_is_counted_once(keys: set[int], entries: int) -> None:
    segment, table = _table(entries)
    expected: dict[int, int] = {}
    for key in keys:
        limit_id = 1 + key % 3
        expected[limit_id] = expected.get(limit_id, 0) + 1
        table.decide([Request(key, HOUR_US, limit=5, limit_id=limit_id)], boottime_us())
    census = Census(segment, table)
    for _ in census.steps():
        pass
    assert dict(census.by_limit) == expected
    assert census.entries == len(keys)
    segment.close()


def test_looking_makes_no_memory_real() -> None:
    segment, table = _table(1_000_000)
    for key in range(1, 200):
        table.decide([Request(key << 40 | key, HOUR_US, limit=5)], boottime_us())
    blocks = os.fstat(segment.fd).st_blocks
    census = Census(segment, table)
    for _ in range(3):
        for _ in census.steps():
            pass
    assert census.entries == 199
    assert os.fstat(segment.fd).st_blocks == blocks


def test_what_is_shown_is_the_last_whole_round() -> None:
    segment, table = _table(200_000)
    for key in range(1, 100_000):
        table.decide([Request(key * 0x9E3779B97F4A7C15 % 2**64, HOUR_US, limit=5)], boottime_us())
    census = Census(segment, table)
    steps = census.steps()
    next(steps)
    assert census.entries == 0
    for _ in steps:
        pass
    assert census.entries == 99_999
