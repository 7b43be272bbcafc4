"""Where everything lies in the shared segment: numbers, and the arithmetic that makes them.

Order in memory: header, table (stripes, then buckets), registry of limits, registry of series, pages. Each
part starts on a 4 KiB boundary. Whoever changes a number here raises LAYOUT_VERSION: a segment of another
layout is never read. The parts are sparse until they are written, so generous sizes cost nothing.
"""

from __future__ import annotations

import dataclasses
from typing import Final

MAGIC: Final = b"ratelimd"
LAYOUT_VERSION: Final = 1

# Header: offsets in bytes; all words are 64 bits.
HEADER_SIZE: Final = 4096
HEADER_MAGIC: Final = 0
HEADER_VERSION: Final = 8
HEADER_BOOT_ID: Final = 16  # 16 bytes
HEADER_SECRET: Final = 32  # 16 bytes
HEADER_WALL_OFFSET_US: Final = 48  # wall clock = CLOCK_BOOTTIME + this
HEADER_SIZE_OF_SEGMENT: Final = 56
HEADER_ENTRIES: Final = 64  # as asked for: the geometry below follows from it
HEADER_PAGES: Final = 72

# Counted by the table itself, in the header because stripes belong to no process.
EVICT: Final = 256
EVICT_HARD: Final = 264
RECLAIM: Final = 272

STRIPE_SIZE: Final = 64
BUCKET_SIZE: Final = 1088
ENTRIES_PER_BUCKET: Final = 8
MAX_STRIPES: Final = 4096

LIMITS_SIZE: Final = 16 * 1024 * 1024
SERIES_SIZE: Final = 4 * 1024 * 1024
REGISTRY_USED: Final = 0  # bytes of records that are valid
REGISTRY_RECORDS: Final = 8
MAX_LIMIT_ID: Final = 65_535

# A page belongs to one process for its life; only that process writes it.
PAGE_SIZE: Final = 64 * 1024
PAGE_OWNER: Final = 0  # process id; 0: free
PAGE_HEARTBEAT_US: Final = 8  # CLOCK_BOOTTIME
PAGE_STATE: Final = 16
PAGE_LAG_US: Final = 24  # how late the process's loop ran at its last heartbeat
PAGE_SLOTS: Final = 64
SLOTS_PER_PAGE: Final = (PAGE_SIZE - PAGE_SLOTS) // 8

BASE_PAGE: Final = 0  # counts of processes that are gone
SUPERVISOR_PAGE: Final = 1
FIRST_WORKER_PAGE: Final = 2


@dataclasses.dataclass(frozen=True)
class TableShape:
    """Where the table of windows is, and how it is cut."""

    offset: int
    stripes: int
    buckets_per_stripe: int

    @property
    def size(self) -> int:
        return self.stripes * (STRIPE_SIZE + self.buckets_per_stripe * BUCKET_SIZE)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Offsets of the parts of one segment."""

    table: TableShape
    limits: int
    series: int
    pages: int
    size: int


def table_shape(entries: int) -> TableShape:
    """A table for at least `entries` entries: as many stripes as leave two buckets to each."""
    buckets = max(2, -(-entries // ENTRIES_PER_BUCKET))
    stripes = min(MAX_STRIPES, 1 << ((buckets // 2).bit_length() - 1))
    return TableShape(HEADER_SIZE, stripes, -(-buckets // stripes))


def layout(entries: int, pages: int) -> Layout:
    """Lay out a segment; the same two numbers give the same layout in every process."""
    table = table_shape(entries)
    limits = _page_up(table.offset + table.size)
    series = limits + LIMITS_SIZE
    first_page = series + SERIES_SIZE
    return Layout(table, limits, series, first_page, first_page + pages * PAGE_SIZE)


def _page_up(offset: int) -> int:
    return -(-offset // 4096) * 4096
