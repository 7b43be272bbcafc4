"""Who uses how much of a class; `shares.pyx` says how."""

from libc.stdint cimport uint64_t

cimport cython

cdef enum:
    CELLS = 4096


@cython.final
cdef class Shares:
    cdef:
        float lately[CELLS]
        float counted[CELLS]  # since the last turn
        uint64_t salt
        readonly double theta

    cdef void clear(self, uint64_t salt) noexcept
    cdef void turn(self, double passing) noexcept
    cdef double chance(self, uint64_t key) noexcept
