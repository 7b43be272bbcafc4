"""Whom a worker refuses; `refusals.pyx` says how it is kept."""

from libc.stdint cimport uint32_t, uint64_t


cdef enum:
    PLACES = 1024


cdef struct Refusal:
    uint64_t key
    uint32_t count  # since the last `take`
    uint32_t weight  # what another key must outlast to get the place


cdef class Refusals:
    cdef:
        Refusal places[PLACES]
        list texts

    cdef bint note(self, uint64_t key) noexcept
    cdef int keep(self, uint64_t key, str limit, bytes tail) except -1
