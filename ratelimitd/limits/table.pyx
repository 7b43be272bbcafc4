# cython: language_level=3, boundscheck=False, wraparound=False, embedsignature=False
"""The shared table of windows: decides requests exactly, across all processes that share its memory.

The protocol is in table_core.h and the headers it includes. This module attaches a process to the memory,
offers the decision to compiled modules (table.pxd) and to tests, and does for the supervisor what concerns
single keys and counts. One object serves one process and one thread at a time.
"""

cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdlib cimport calloc, free

from ratelimitd.errors import SegmentError
from ratelimitd.limits.table_values import (
    Counters, Decision, Granted, Owed, Peeked, Request, StoreView, TableBusy, TableShape, shape,
)

__all__ = [
    "Counters", "Decision", "Granted", "Owed", "Peeked", "Request", "StoreView", "Table", "TableBusy", "TableShape",
    "shape", "siphash24",
]


cdef extern from "ratelimitd/limits/table_keys.h" nogil:
    enum:
        TABLE_PLACES
        TABLE_LIMIT_IDS
        TABLE_MAX_STRIPES
        STRIPE_WAIT_NS

    ctypedef struct Peek "Peeked":
        uint64_t used
        uint64_t denied_until_us
        uint64_t banned_until_us
        uint16_t limit_id

    int stripes_initialise(TableCore* table)
    Verdict table_admit(TableCore* table, Charge* charges, int n, uint64_t now_us, Decided* decided)
    Verdict table_admit_again(TableCore* table, Charge* charges, int n, uint64_t now_us, Decided* decided)
    int table_peek(TableCore* table, uint64_t key, uint64_t slot_us, uint64_t now_us, Peek* peeked)
    int table_reset(TableCore* table, uint64_t key, uint64_t now_us)
    int table_ban(TableCore* table, uint64_t key, uint16_t limit_id, uint64_t until_us, uint64_t now_us)
    int table_live(const Bucket* bucket, int i, uint64_t now_us)
    const char* table_fault(const TableCore* table, Bucket* bucket, int i)


cdef extern from "ratelimitd/limits/table_leases.h" nogil:
    Verdict table_admit_shared(
        TableCore* table, Charge* charges, int n, uint64_t now_us, const Store* store, const Grant* grants,
        int granted, Decided* decided)
    int table_mend(TableCore* table, Charge* charges, int n, uint64_t now_us, uint64_t ahead)
    int table_prepare(
        TableCore* table, const Charge* charge, uint64_t now_us, const Store* store, int lost, Prepared* out)
    int table_apply(
        TableCore* table, const Charge* charge, uint64_t now_us, uint16_t epoch, uint16_t incarnation,
        uint32_t units, uint16_t slot, uint64_t end_us, uint64_t denied_us, LeftOver* left)
    int table_is_unpushed(const Bucket* bucket, int i, uint64_t now_us, uint16_t epoch, int everything)
    uint64_t table_key_of(const Bucket* bucket, int i, uint16_t* limit_id)


cdef extern from *:
    """
    enum { COUNTERS_OFFSET = 256 };
    """
    enum:
        COUNTERS_OFFSET           # in the header of the segment


cdef dict VERDICTS = {
    ADMITTED: "admitted", REFUSED: "refused", TIMED_OUT: "timed out", STALE: "stale", UNKNOWN: "unknown",
    LACKING: "lacking",
}


def siphash24(bytes data not None, bytes secret not None):
    """The key of `data` under the 16 bytes of `secret`."""
    if len(secret) != 16:
        raise ValueError("the secret of siphash has 16 bytes")
    cdef uint64_t k0 = int.from_bytes(secret[:8], "little"), k1 = int.from_bytes(secret[8:], "little")
    return siphash(<const uint8_t*><const char*>data, len(data), k0, k1)


@cython.final
cdef class Table:
    def __cinit__(self, memory, uint64_t offset, uint32_t stripes, uint32_t buckets_per_stripe,
                  uint64_t header_offset=0):
        if not 0 < stripes <= TABLE_MAX_STRIPES or stripes & (stripes - 1) or buckets_per_stripe < 2:
            raise SegmentError(f"no table has {stripes} stripes of {buckets_per_stripe} buckets")
        PyObject_GetBuffer(memory, &self.view, PyBUF_WRITABLE)
        self.attached = True
        cdef char* start = <char*>self.view.buf
        cdef uint64_t size = stripes * (sizeof(Stripe) + buckets_per_stripe * <uint64_t>sizeof(Bucket))
        if (<size_t>start + offset) % 64 or offset + size > <uint64_t>self.view.len:
            raise SegmentError(f"a table of {size} bytes does not fit at byte {offset} of the segment")
        self.core.stripes = <Stripe*>(start + offset)
        self.core.buckets = <Bucket*>(start + offset + stripes * sizeof(Stripe))
        self.core.counters = <TableCounters*>(start + header_offset + COUNTERS_OFFSET)
        self.core.nstripes = stripes
        self.core.buckets_per_stripe = buckets_per_stripe
        self.core.wait_ns = STRIPE_WAIT_NS
        self.core.limits = <uint32_t*>calloc(TABLE_LIMIT_IDS, sizeof(uint32_t))
        self.core.busy_until_ns = <uint64_t*>calloc(stripes, sizeof(uint64_t))
        if self.core.limits == NULL or self.core.busy_until_ns == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.core.limits)
        free(self.core.busy_until_ns)
        if self.attached:
            PyBuffer_Release(&self.view)

    cdef Verdict admit(self, Charge* charges, int n, uint64_t now_us, Decided* decided) noexcept nogil:
        return table_admit(&self.core, charges, n, now_us, decided)

    cdef Verdict admit_again(self, Charge* charges, int n, uint64_t now_us, Decided* decided) noexcept nogil:
        return table_admit_again(&self.core, charges, n, now_us, decided)

    cdef Verdict admit_shared(
        self, Charge* charges, int n, uint64_t now_us, const Store* store, const Grant* grants, int granted,
        Decided* decided,
    ) noexcept nogil:
        return table_admit_shared(&self.core, charges, n, now_us, store, grants, granted, decided)

    cdef Verdict admit_shared_again(
        self, Charge* charges, int n, uint64_t now_us, const Store* store, const Grant* grants, int granted,
        Decided* decided,
    ) noexcept nogil:
        if not table_mend(&self.core, charges, n, now_us, decided.at_us):
            return TIMED_OUT
        return table_admit_shared(&self.core, charges, n, now_us, store, grants, granted, decided)

    cdef int prepare_call(
        self, const Charge* charge, uint64_t now_us, const Store* store, bint lost, Prepared* prepared
    ) noexcept nogil:
        return table_prepare(&self.core, charge, now_us, store, lost, prepared)

    cdef int apply(
        self, const Charge* charge, uint64_t now_us, uint16_t epoch, uint16_t incarnation, uint32_t units,
        uint16_t slot, uint64_t end_us, uint64_t denied_us, LeftOver* left,
    ) noexcept nogil:
        return table_apply(
            &self.core, charge, now_us, epoch, incarnation, units, slot, end_us, denied_us, left)

    @property
    def buckets(self):
        """How many buckets there are to count."""
        return <uint64_t>self.core.nstripes * self.core.buckets_per_stripe

    def initialise(self):
        """Make the locks of a new segment, before any other process knows it."""
        cdef int error = stripes_initialise(&self.core)
        if error:
            raise SegmentError(f"this system has no robust locks to share between processes (error {error})")

    def decide(self, requests, uint64_t now_us):
        """`admit` in words of Python."""
        return _decide(self, requests, now_us, 0)

    def decide_again(self, requests, uint64_t now_us, uint64_t ahead_us):
        """`admit_again` in words of Python; `ahead_us` is the instant of the decision that was stale."""
        return _decide(self, requests, now_us, ahead_us)

    def decide_shared(self, requests, uint64_t now_us, store, granted=()):
        """`admit_shared` in words of Python: `store` is a StoreView, `granted` are Granted."""
        cdef Charge charges[MAX_CHARGES]
        cdef Grant grants[MAX_CHARGES]
        cdef Store view = _store(store)
        cdef Decided decided
        cdef Verdict verdict
        cdef int n = _fill(charges, requests), count = len(granted), i
        for i, grant in enumerate(granted):
            grants[i] = Grant(grant.key, grant.retry_at_us, grant.end_us, grant.units, grant.used, grant.incarnation)
        with nogil:
            verdict = table_admit_shared(&self.core, charges, n, now_us, &view, grants, count, &decided)
        return _decision(verdict, &decided, charges, n)

    def prepare(self, uint64_t key, uint64_t slot_us, uint64_t now_us, store, lost=False):
        """What a call for a key takes along (an Owed), and its entry no longer has."""
        cdef Charge charge
        cdef Prepared prepared
        cdef Store view = _store(store)
        cdef bint own = lost
        cdef int done, age
        charge.key, charge.slot_us = key, slot_us
        with nogil:
            done = table_prepare(&self.core, &charge, now_us, &view, own, &prepared)
        _done(done)
        return Owed(
            prepared.known, prepared.want, prepared.debt, prepared.returned, prepared.returned_slot,
            bool(prepared.stale),
            tuple([(age, prepared.own[age]) for age in range(prepared.own_count) if prepared.own[age]]),
        )

    def put_lease(self, request, uint64_t now_us, uint16_t epoch, uint16_t incarnation, uint32_t units,
                  uint16_t slot, uint64_t end_us, uint64_t denied_us):
        """`apply` for tests; returns (units, slot) of the lease that gave way."""
        cdef Charge charges[MAX_CHARGES]
        cdef LeftOver left
        cdef int done
        _fill(charges, (request,))
        with nogil:
            done = table_apply(
                &self.core, charges, now_us, epoch, incarnation, units, slot, end_us, denied_us, &left)
        _done(done)
        return left.units, left.slot

    def unpushed(self, uint32_t start_bucket, uint32_t n_buckets, uint64_t now_us, uint16_t epoch, everything=False):
        """(key, limit id) of what the store has to be told, in a step of a walk: what was admitted without it,
        or, for `everything`, all that was admitted before this epoch and still counts."""
        cdef uint64_t end = min(<uint64_t>start_bucket + n_buckets, <uint64_t>self.buckets), bucket
        cdef bint whole = everything
        cdef uint16_t limit_id
        cdef uint64_t key
        cdef int i
        found = []
        for bucket in range(start_bucket, end):
            for i in range(TABLE_PLACES):
                if table_is_unpushed(&self.core.buckets[bucket], i, now_us, epoch, whole):
                    key = table_key_of(&self.core.buckets[bucket], i, &limit_id)
                    found.append((key, limit_id))
        return found

    def peek(self, uint64_t key, uint64_t slot_us, uint64_t now_us):
        """A key as it stands, or None; changes nothing."""
        cdef Peek peeked = Peek(0, 0, 0, 0)
        cdef int found
        with nogil:
            found = table_peek(&self.core, key, slot_us, now_us, &peeked)
        if not _done(found):
            return None
        return Peeked(peeked.limit_id, peeked.used, peeked.denied_until_us, peeked.banned_until_us)

    def reset(self, uint64_t key, uint64_t now_us):
        """Forget a key, its ban included; whether it was there."""
        cdef int found
        with nogil:
            found = table_reset(&self.core, key, now_us)
        return _done(found)

    def ban(self, uint64_t key, uint16_t limit_id, uint64_t until_us, uint64_t now_us):
        """Refuse a key until `until_us`, whatever its count."""
        cdef int done
        with nogil:
            done = table_ban(&self.core, key, limit_id, until_us, now_us)
        _done(done)

    def unban(self, uint64_t key, uint64_t now_us):
        """Lift a ban and leave the count; whether the key was there."""
        cdef int found
        with nogil:
            found = table_ban(&self.core, key, 0, 0, now_us)
        return _done(found)

    def count(self, uint32_t start_bucket, uint32_t n_buckets, uint64_t now_us):
        """Live entries by limit id in `n_buckets` buckets from `start_bucket`: a step of a walk over all."""
        cdef uint64_t end = min(<uint64_t>start_bucket + n_buckets, <uint64_t>self.buckets), bucket
        cdef uint32_t* found = <uint32_t*>calloc(TABLE_LIMIT_IDS, sizeof(uint32_t))
        cdef int i, limit_id, highest = -1
        counts = {}
        if found == NULL:
            raise MemoryError
        try:
            for bucket in range(start_bucket, end):
                for i in range(TABLE_PLACES):
                    limit_id = table_live(&self.core.buckets[bucket], i, now_us)
                    if limit_id >= 0:
                        found[limit_id] += 1
                        highest = max(highest, limit_id)
            for limit_id in range(highest + 1):
                if found[limit_id]:
                    counts[limit_id] = found[limit_id]
            return counts
        finally:
            free(found)

    def counters(self):
        """What happened to the table since the segment was made."""
        cdef uint64_t dead_owners = 0, timeouts = 0
        cdef uint32_t i
        for i in range(self.core.nstripes):
            dead_owners += self.core.stripes[i].recovered
            timeouts += self.core.stripes[i].timeouts
        cdef TableCounters* c = self.core.counters
        return Counters(c.evicted, c.evicted_hard, c.reclaimed, c.damaged, dead_owners, timeouts)

    def verify(self):
        """Everything in the table that its invariants forbid; for tests, while nobody decides."""
        cdef uint64_t bucket, end = self.buckets
        cdef const char* fault
        cdef int i
        faults = []
        for bucket in range(end):
            for i in range(TABLE_PLACES):
                fault = table_fault(&self.core, &self.core.buckets[bucket], i)
                if fault != NULL:
                    faults.append(f"bucket {bucket} place {i}: {fault.decode()}")
        return faults


cdef bint _done(int answer) except -1:
    if answer < 0:
        raise TableBusy("another process holds the lock of this key; if this goes on, a worker is stuck")
    return answer


cdef int _fill(Charge* charges, requests) except -1:
    cdef int n = len(requests), i
    if n > MAX_CHARGES:
        raise ValueError(f"a decision has at most {MAX_CHARGES} charges")
    for i, request in enumerate(requests):
        charges[i].key, charges[i].slot_us, charges[i].limit, charges[i].cost = request[:4]
        charges[i].shift, charges[i].limit_id, charges[i].generation, charges[i].observe = request[4:8]
        charges[i].on_failure = request.on_failure
        charges[i].used = charges[i].over = charges[i].source = 0
    return n


cdef Store _store(view):
    cdef Store store
    store.mode, store.epoch, store.nodes, store.unlinked = view.mode, view.epoch, view.nodes, view.unlinked
    return store


cdef object _decision(Verdict verdict, Decided* decided, Charge* charges, int n):
    return Decision(
        VERDICTS[verdict], decided.at_us, decided.retry_at_us, decided.refused_by,
        tuple([charges[i].used for i in range(n)]), tuple([bool(charges[i].over) for i in range(n)]),
        tuple([charges[i].source for i in range(n)]),
    )


cdef object _decide(Table table, requests, uint64_t now_us, uint64_t ahead_us):
    cdef Charge charges[MAX_CHARGES]
    cdef Decided decided
    cdef Verdict verdict
    cdef int n = _fill(charges, requests)
    decided.at_us = ahead_us
    with nogil:
        if ahead_us:
            verdict = table.admit_again(charges, n, now_us, &decided)
        else:
            verdict = table.admit(charges, n, now_us, &decided)
    return _decision(verdict, &decided, charges, n)
