# The C interface of the shared table of windows, for the compiled modules that decide requests.
#
# A decision:
#     verdict = table.admit(charges, n, now_us, &decided)          # now_us: CLOCK_BOOTTIME
#     while verdict == STALE:                                      # this process stood still for a second
#         verdict = table.admit_again(charges, n, clock_us(), &decided)
# `decided.at_us` is the instant of the decision and belongs into the access log, `now_us` does not.

cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "ratelimitd/limits/siphash.h" nogil:
    uint64_t siphash(const uint8_t* data, size_t n, uint64_t k0, uint64_t k1)


cdef extern from "ratelimitd/limits/table_core.h" nogil:
    enum:
        MAX_CHARGES               # keys of one decision: 16

    ctypedef enum Verdict:
        ADMITTED
        REFUSED
        TIMED_OUT                 # a stripe was not free within the bound: nothing is known, nothing charged
        STALE                     # now_us is over a second behind: read the clock, then admit_again
        UNKNOWN                   # the store is away, and a limit passes nothing without it
        LACKING                   # the store has to be asked for units; nothing was charged

    ctypedef struct Charge:
        uint64_t key              # siphash of (limit id, value)
        uint64_t slot_us          # window.slot_us(window)
        uint32_t limit            # at most 2^31 - 1
        uint32_t cost
        uint16_t limit_id
        uint16_t generation       # of the policy
        uint8_t shift             # window.shift_for(limit)
        uint8_t observe           # charged up to its size, never a reason to refuse
        uint8_t on_failure        # FAILURE_LOCAL, _OPEN or _CLOSED
        # written by admit:
        uint8_t over              # why this charge alone would have been refused, observed ones too; 0: not
        uint32_t used             # units counted after the decision
        uint8_t source            # BY_NOTHING, _LEASE, _GRANT or _FALLBACK, where a store is asked

    const int CHARGE_OVER, CHARGE_BANNED, CHARGE_UNKNOWN
    const int FAILURE_LOCAL, FAILURE_OPEN, FAILURE_CLOSED
    const int BY_NOTHING, BY_LEASE, BY_GRANT, BY_FALLBACK

    ctypedef struct Decided:
        uint64_t at_us            # instant of the decision; with STALE: the instant that is ahead of now_us
        uint64_t retry_at_us      # REFUSED: when there is room for the cost, latest over the refusing limits
        int refused_by            # REFUSED: index of the charge with that instant, else -1

    ctypedef struct Stripe:
        uint32_t recovered
        uint32_t timeouts

    ctypedef struct Bucket:
        pass

    ctypedef struct TableCounters:
        uint64_t evicted
        uint64_t evicted_hard
        uint64_t reclaimed
        uint64_t damaged

    ctypedef struct TableCore:
        Stripe* stripes
        Bucket* buckets
        TableCounters* counters
        uint32_t nstripes
        uint32_t buckets_per_stripe
        uint64_t wait_ns
        uint32_t* limits
        uint64_t* busy_until_ns


cdef extern from "ratelimitd/limits/table_leases.h" nogil:
    const int STORE_SHARED, STORE_AWAY, STORE_BOTH

    ctypedef struct Store:
        uint32_t nodes            # that a limit is shared among while the store is away
        uint16_t epoch            # leases of another one are worth nothing
        uint8_t mode
        uint8_t unlinked          # away for this process alone

    ctypedef struct Grant:
        uint64_t key
        uint64_t retry_at_us      # refused: when units are free
        uint64_t end_us           # granted: last instant at which they may be spent; 0: at any
        uint32_t units            # 0: refused
        uint32_t used             # of the limit, over the fleet
        uint16_t incarnation

    ctypedef struct Prepared:
        uint32_t known
        uint32_t want
        uint32_t debt
        uint32_t returned
        uint16_t returned_slot
        uint8_t stale
        uint8_t own_count
        uint32_t own[32]

    ctypedef struct LeftOver:
        uint32_t units
        uint16_t slot


@cython.final
cdef class Table:
    cdef TableCore core
    cdef Py_buffer view
    cdef bint attached

    # n is 0 to MAX_CHARGES. Charges of equal key are one charge of their summed cost.
    cdef Verdict admit(self, Charge* charges, int n, uint64_t now_us, Decided* decided) noexcept nogil
    # The repeat after STALE: `decided` is as that answer left it, now_us was read after it.
    cdef Verdict admit_again(self, Charge* charges, int n, uint64_t now_us, Decided* decided) noexcept nogil
    # Where a store is asked: by leases, by `granted` of its answers, or without it.
    cdef Verdict admit_shared(
        self, Charge* charges, int n, uint64_t now_us, const Store* store, const Grant* grants, int granted,
        Decided* decided,
    ) noexcept nogil
    # The same after STALE, as above.
    cdef Verdict admit_shared_again(
        self, Charge* charges, int n, uint64_t now_us, const Store* store, const Grant* grants, int granted,
        Decided* decided,
    ) noexcept nogil
    # What a call for the key of `charge` takes along; 1, or -1: its stripe was not free in time.
    cdef int prepare_call(
        self, const Charge* charge, uint64_t now_us, const Store* store, bint lost, Prepared* prepared
    ) noexcept nogil
    # What an answer leaves in the table; 1 or -1 as above.
    cdef int apply(
        self, const Charge* charge, uint64_t now_us, uint16_t epoch, uint16_t incarnation, uint32_t units,
        uint16_t slot, uint64_t end_us, uint64_t denied_us, LeftOver* left,
    ) noexcept nogil
