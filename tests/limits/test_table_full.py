"""Many more keys than places: what is forgotten then, and what is not.

Each new key of a crowd takes a place; a client over its limit must not be forgotten for them, since that
would be the way to be admitted once more.
"""

from __future__ import annotations

import mmap

import pytest

from ratelimitd.limits.table import Request, Table, shape

HEADER_SIZE = 4096
HOUR_US = 3_600_000_000
SLOT_US = -(-HOUR_US // 31)
START_US = 50_000_000_000
CHARGES = 16  # keys of one decision, the most there can be
LIMIT = 100
EVERY = 5_000  # how often the client over its limit tries again, in keys of the crowd
OFFENDER = 0xC0FFEE_0000_0001


def scattered(number: int) -> int:
    """As a keyed hash would: every number another key, spread over all bits (a bijection on 64 bits)."""
    return (number * 0x9E3779B97F4A7C15 + 0x7F4A7C15) & 0xFFFF_FFFF_FFFF_FFFF


@pytest.mark.parametrize(
    ("entries", "keys"),
    [(50_000, 500_000), pytest.param(1_000_000, 10_000_000, marks=pytest.mark.slow)],
)
def test_a_client_over_its_limit_stays_refused_among_ten_times_as_many_keys_as_places(
    entries: int, keys: int
) -> None:
    form = shape(entries)
    memory = mmap.mmap(-1, HEADER_SIZE + form.size)
    table = Table(memory, HEADER_SIZE, form.stripes, form.buckets_per_stripe)
    table.initialise()
    offender = Request(OFFENDER, SLOT_US, LIMIT)
    now_us = START_US
    assert [table.decide([offender], now_us).verdict for _ in range(LIMIT + 1)].count("admitted") == LIMIT
    admitted = tries = 0
    for first in range(0, keys, CHARGES):
        now_us += CHARGES
        crowd = [Request(scattered(n), SLOT_US, LIMIT) for n in range(first, first + CHARGES)]
        admitted += table.decide(crowd, now_us).verdict == "admitted"
        if first % EVERY < CHARGES:
            tries += 1
            assert table.decide([offender], now_us).verdict == "refused", f"after {first} keys"
    assert tries >= keys // EVERY
    assert admitted == -(-keys // CHARGES), "a new client is admitted, however full the table is"
    counters = table.counters()
    places = 8 * form.stripes * form.buckets_per_stripe
    assert keys + 1 - places <= counters.evicted <= keys
    assert counters.evicted_hard == 0, "nobody who was over a limit or banned was forgotten"
    assert table.verify() == []
