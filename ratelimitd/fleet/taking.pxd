"""Calls of `take.lua` as bytes; `taking.pyx` says which."""

from libc.stdint cimport uint64_t

cdef enum:
    TAKE_NUMBERS = 12
    MOST_PAIRS = 36

cdef bytes key_name(bytes prefix, uint64_t key)
cdef bytes take_command(bytes prefix, uint64_t key, const double* numbers, const double* pairs, int pair_count)
cdef bytes whole_command(bytes command)
