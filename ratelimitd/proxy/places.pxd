"""How many of something there may be at once, over all workers; `places.pyx` says how it is counted."""

from libc.stdint cimport uint64_t

from ratelimitd.limits.inflight cimport InFlight


cdef enum Taken:
    NONE_LEFT
    TAKEN  # and to be given back
    UNCOUNTED  # the count is not to be had just now: go on without


cdef class Places:
    cdef:
        InFlight inflight
        uint64_t key
        uint64_t most

    cdef Taken take(self) noexcept
    cdef void give(self) noexcept
    cdef bint full(self) noexcept
