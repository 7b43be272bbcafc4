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

    ctypedef struct Charge:
        uint64_t key              # siphash of (limit id, value)
        uint64_t slot_us          # window.slot_us(window)
        uint32_t limit            # at most 2^31 - 1
        uint32_t cost
        uint16_t limit_id
        uint16_t generation       # of the policy
        uint8_t shift             # window.shift_for(limit)
        uint8_t observe           # charged up to its size, never a reason to refuse
        # written by admit:
        uint8_t over              # why this charge alone would have been refused, observed ones too; 0: not
        uint32_t used             # units counted after the decision

    const int CHARGE_OVER, CHARGE_BANNED

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


@cython.final
cdef class Table:
    cdef TableCore core
    cdef Py_buffer view
    cdef bint attached

    # n is 0 to MAX_CHARGES. Charges of equal key are one charge of their summed cost.
    cdef Verdict admit(self, Charge* charges, int n, uint64_t now_us, Decided* decided) noexcept nogil
    # The repeat after STALE: `decided` is as that answer left it, now_us was read after it.
    cdef Verdict admit_again(self, Charge* charges, int n, uint64_t now_us, Decided* decided) noexcept nogil
