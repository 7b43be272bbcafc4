"""Requests that wait for room; `waiting.pyx` says whose turn it is."""

from libc.stdint cimport uint64_t


cdef class Place:
    cdef:
        readonly object waiter
        readonly int priority
        uint64_t since
        Place previous
        Place following


cdef class Waiting:
    cdef:
        readonly int count
        int size
        uint64_t most_ticks
        uint64_t standing_since  # since when somebody waits without a break
        tuple heads  # of four rings, from the highest priority to the lowest

    cdef Place join(self, object waiter, int priority, uint64_t now)
    cdef void leave(self, Place place)
    cdef Place first(self, uint64_t now)
    cdef Place overdue(self, uint64_t now)
    cdef Place lowest(self, int above)
