"""Where everything lies in the shared segment: numbers, and the arithmetic that makes them.

Order in memory: header, table (stripes, then buckets), registry of limits, registry of series, what is in
flight, states of web servers, pages, rings of log lines (one for each page). Each part starts on a 4 KiB
boundary. Whoever changes a number here raises LAYOUT_VERSION: a segment of another layout is never read. The
parts are sparse until they are written, so generous sizes cost nothing.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from ratelimitd.limits.table_values import shape as table_shape

MAGIC: Final = b"ratelimd"
LAYOUT_VERSION: Final = 9

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
HEADER_LIMIT_SECRET: Final = 80  # 16 bytes; the fleet's, where there is a store

# Counted by the table itself, in the header because stripes belong to no process.
EVICT: Final = 256
EVICT_HARD: Final = 264
RECLAIM: Final = 272

# Written by the supervisor, read by every worker: what to shed (segment/shedding.py).
HEADER_SHED_PASS: Final = 512  # 4 words: millionths of each priority that pass
HEADER_SHED_SAMPLED_US: Final = 544  # CLOCK_BOOTTIME of the sample that it rests on
HEADER_SHED_LEVEL: Final = 552  # millionths
HEADER_SHED_SPREAD_S: Final = 560
HEADER_SHED_END: Final = 568

# How the store does (segment/store.py): written by whoever finds out, read at every decision.
HEADER_STORE_STATE: Final = 576  # mode, and the epoch above it
HEADER_STORE_AWAY_SINCE_US: Final = 584
HEADER_STORE_RECHARGE_SINCE_US: Final = 592
HEADER_STORE_NODES_ASSUMED: Final = 600
HEADER_STORE_NODES_NOW: Final = 608
HEADER_STORE_END: Final = 616

LIMITS_SIZE: Final = 16 * 1024 * 1024
SERIES_SIZE: Final = 4 * 1024 * 1024
REGISTRY_USED: Final = 0  # bytes of records that are valid
REGISTRY_RECORDS: Final = 8
MAX_LIMIT_ID: Final = 65_535

# What is in flight: a mutex, then a table for each page (limits/inflight.h).
INFLIGHT_HEADER_SIZE: Final = 4096
INFLIGHT_TABLE_SIZE: Final = 65_536 * 16

# A page belongs to one process for its life; only that process writes it.
PAGE_SIZE: Final = 64 * 1024
PAGE_OWNER: Final = 0  # process id; 0: free
PAGE_HEARTBEAT_US: Final = 8  # CLOCK_BOOTTIME
PAGE_WAITING_US: Final = 16  # CPU time of what always waits in the process's loop
PAGE_LAG_US: Final = 24  # how late the process's loop runs: the median of its last ticks
PAGE_ARRIVALS: Final = 32  # 4 words: requests of each priority, shed ones included
PAGE_SLOTS: Final = 64
SLOTS_PER_PAGE: Final = (PAGE_SIZE - PAGE_SLOTS) // 8

# A ring outlives the process that writes into it: the next owner of the page goes on where it stopped.
RING_SIZE: Final = 4 * 1024 * 1024  # a power of two: the least that bears a pause of 50 ms at full speed
RING_STRIDE: Final = RING_SIZE + 4096

# How each web server does (segment/server_state.h). A server's record has the number of the slot that counts
# what it has in flight.
SERVER_SIZE: Final = 64
SERVERS_SIZE: Final = SLOTS_PER_PAGE * SERVER_SIZE

BASE_PAGE: Final = 0  # counts of processes that are gone
SUPERVISOR_PAGE: Final = 1
FIRST_WORKER_PAGE: Final = 2


@dataclasses.dataclass(frozen=True)
class TablePlace:
    """Where the table of windows is, and how it is cut."""

    offset: int
    stripes: int
    buckets_per_stripe: int


@dataclasses.dataclass(frozen=True)
class Layout:
    """Offsets of the parts of one segment."""

    table: TablePlace
    limits: int
    series: int
    inflight: int
    servers: int
    pages: int
    rings: int
    size: int


def layout(entries: int, pages: int) -> Layout:
    """Lay out a segment; the same two numbers give the same layout in every process."""
    table = table_shape(entries)
    limits = _page_up(HEADER_SIZE + table.size)
    series = limits + LIMITS_SIZE
    inflight = series + SERIES_SIZE
    servers = inflight + INFLIGHT_HEADER_SIZE + pages * INFLIGHT_TABLE_SIZE
    first_page = _page_up(servers + SERVERS_SIZE)
    first_ring = first_page + pages * PAGE_SIZE
    return Layout(
        TablePlace(HEADER_SIZE, table.stripes, table.buckets_per_stripe),
        limits,
        series,
        inflight,
        servers,
        first_page,
        first_ring,
        first_ring + pages * RING_STRIDE,
    )


def _page_up(offset: int) -> int:
    return -(-offset // 4096) * 4096
