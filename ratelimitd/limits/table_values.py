"""Values that cross the border of the shared table, in words of Python.

The compiled modules decide with C structures (table.pxd); what is here is for the supervisor, which lays the
table out, counts it and does what operators ask for single keys, and for tests.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from ratelimitd.errors import RatelimitdError

STRIPE_SIZE = 64
BUCKET_SIZE = 1088
ENTRIES_PER_BUCKET = 8
MAX_STRIPES = 4096


class TableBusy(RatelimitdError):
    """The lock of a key was held by another process for longer than a decision may wait: try again."""


class TableShape(NamedTuple):
    """How a table is cut: stripes (a lock each), buckets in each of them, bytes in all."""

    stripes: int
    buckets_per_stripe: int
    size: int


def shape(entries: int) -> TableShape:
    """A table for at least `entries` entries: as many stripes as leave two buckets to each."""
    buckets = max(2, -(-entries // ENTRIES_PER_BUCKET))
    stripes = min(MAX_STRIPES, 1 << ((buckets // 2).bit_length() - 1))
    buckets_per_stripe = -(-buckets // stripes)
    return TableShape(stripes, buckets_per_stripe, stripes * (STRIPE_SIZE + buckets_per_stripe * BUCKET_SIZE))


class Request(NamedTuple):
    """One charge of a decision."""

    key: int
    slot_us: int
    limit: int
    cost: int = 1
    shift: int = 0
    limit_id: int = 1
    generation: int = 0
    observe: bool = False


class Decision(NamedTuple):
    """What was decided; `used` and `over` have an item for each charge."""

    verdict: Literal["admitted", "refused", "timed out", "stale"]
    at_us: int
    retry_at_us: int
    refused_by: int
    used: tuple[int, ...]
    over: tuple[bool, ...]


class Peeked(NamedTuple):
    """A key as it stands; the instants are 0 when it is neither exhausted nor banned."""

    limit_id: int
    used: int
    denied_until_us: int
    banned_until_us: int


class Counters(NamedTuple):
    """Since the segment was made. `evicted` counts live entries that gave way to other keys, `evicted_hard`
    those that were banned, over their limit or held a lease (in one of the two, never in both)."""

    evicted: int
    evicted_hard: int
    reclaimed: int
    damaged_stripes: int
    dead_owners: int
    timeouts: int
