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
    on_failure: int = 0  # 0 local, 1 open, 2 closed


class Decision(NamedTuple):
    """What was decided; `used` and `over` have an item for each charge."""

    verdict: Literal["admitted", "refused", "timed out", "stale", "unknown", "lacking"]
    at_us: int
    retry_at_us: int
    refused_by: int
    used: tuple[int, ...]
    over: tuple[bool, ...]
    source: tuple[int, ...]  # of its units, where a store is asked: 0 none, 1 lease, 2 grant, 3 fallback


class StoreView(NamedTuple):
    """How the store does, as a decision sees it (`segment.store` says more)."""

    mode: int = 0
    epoch: int = 0
    nodes: int = 1
    unlinked: bool = False


class Granted(NamedTuple):
    """What the store answered for one key of a request; no units: refused until `retry_at_us`."""

    key: int
    retry_at_us: int = 0
    end_us: int = 0
    units: int = 0
    used: int = 0
    incarnation: int = 1


class Owed(NamedTuple):
    """What a call for a key takes along: the incarnation that the node knows, what it uses in a slot, a debt,
    the units of a lease that has ended and their slot; and what it admitted itself, as (age in slots, units),
    of which the latest may not be in the store if it is `stale`."""

    known: int
    want: int
    debt: int
    returned: int
    returned_slot: int
    stale: bool
    own: tuple[tuple[int, int], ...]


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
