"""IPv4 addresses as numbers, and ranges of them; `addresses.pyx` says which spellings are read."""

from libc.stdint cimport int64_t, uint32_t

cdef int64_t read_ipv4(const char* at, Py_ssize_t size) noexcept
cpdef int64_t plain_ipv4(bytes text) noexcept


cdef class Ipv4Ranges:
    cdef uint32_t* bounds  # first and last of each range
    cdef Py_ssize_t count

    cdef bint has(self, uint32_t number) noexcept
