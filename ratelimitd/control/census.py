"""Counts the live entries of the table, a little at a time, round after round.

A round over a million entries takes 10 to 300 ms of CPU; in small steps it disturbs neither the supervisor's
loop nor the workers. Memory that was never written is passed over: to read it would make it real, and an
empty table of a million entries is 130 MiB of nothing. What is shown is the last whole round.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from ratelimitd.limits.table_values import BUCKET_SIZE, STRIPE_SIZE
from ratelimitd.segment.memory import boottime_us

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ratelimitd.limits.table import Table
    from ratelimitd.segment.memory import Segment

_STEP_BUCKETS: Final = 2_048
_STEP_RANGES: Final = 16
_PAUSE_S: Final = 0.005
_ROUND_EVERY_S: Final = 1.0


class Census:
    """Entries in use, by limit id and in all."""

    def __init__(self, segment: Segment, table: Table) -> None:
        self._segment = segment
        self._table = table
        self.by_limit: Mapping[int, int] = MappingProxyType({})

    @property
    def entries(self) -> int:
        return sum(self.by_limit.values())

    async def run(self) -> None:
        """Count for ever, with at most a fiftieth of one CPU."""
        while True:
            start_s = time.thread_time()
            for _ in self.steps():
                await asyncio.sleep(_PAUSE_S)
            await asyncio.sleep(max(_ROUND_EVERY_S, 50 * (time.thread_time() - start_s)))

    def steps(self) -> Iterator[None]:
        """One round, in steps; the result is there after the last."""
        found: Counter[int] = Counter()
        buckets = ranges = 0
        for start, count in self._written():
            found.update(self._table.count(start, count, boottime_us()))
            buckets, ranges = buckets + count, ranges + 1
            if buckets >= _STEP_BUCKETS or ranges >= _STEP_RANGES:
                buckets = ranges = 0
                yield
        self.by_limit = MappingProxyType(dict(found))

    def _written(self) -> Iterator[tuple[int, int]]:
        """First bucket and number of those whose header, which is never cut by a page, was ever written."""
        begin = self._segment.table.offset + self._segment.table.stripes * STRIPE_SIZE
        end = begin + self._table.buckets * BUCKET_SIZE
        position = begin
        while position < end:
            try:
                data = os.lseek(self._segment.fd, position, os.SEEK_DATA)
            except OSError:  # nothing but holes from here on
                return
            position = min(os.lseek(self._segment.fd, data, os.SEEK_HOLE), end)
            first, last = -(-(data - begin) // BUCKET_SIZE), -(-(position - begin) // BUCKET_SIZE)
            for start in range(first, last, _STEP_BUCKETS):
                yield start, min(_STEP_BUCKETS, last - start)
