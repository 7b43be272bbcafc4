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
    UNKNOWN  # the count was not free in time, or has no room: no place was taken


cdef class InFlight:
    cdef:
        InFlightHeader* header
        InFlightSlot* tables
        InFlightSlot* own
        InFlightSlot* kept
        Py_buffer view
        bint attached
        int page
        uint64_t busy_until_ns  # the lock is only tried until then; 0: it was free
        uint32_t used  # slots that have a key
        uint32_t unheld  # of those: nobody holds a place under the key

    cdef Entered enter(self, uint64_t key, uint64_t bound) noexcept
    cdef void leave(self, uint64_t key) noexcept
    cdef uint64_t taken(self, uint64_t key) noexcept
    cdef bint _make_room(self) noexcept
