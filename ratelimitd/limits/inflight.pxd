"""Requests and connections in flight, per key; `inflight.pyx` says what it promises."""

from libc.stdint cimport uint32_t, uint64_t

cdef extern from "ratelimitd/limits/inflight.h" nogil:
    ctypedef struct InFlightSlot:
        uint64_t key
        uint64_t count

    ctypedef struct InFlightHeader:
        uint64_t pages


cdef enum Entered:
    ENTERED
    FULL
    UNKNOWN  # the count was not free in time


cdef class InFlight:
    cdef:
        InFlightHeader* header
        InFlightSlot* tables
        InFlightSlot* own
        InFlightSlot* kept
        Py_buffer view
        bint attached
        int page
        uint32_t used

    cdef Entered enter(self, uint64_t key, uint64_t bound) noexcept
    cdef void leave(self, uint64_t key) noexcept
    cdef void _rebuild(self) noexcept
