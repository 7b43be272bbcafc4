"""Which requests a route or a limit is for; `matching.pyx` says how they are compared."""

from libc.stdint cimport uint8_t, uint64_t

from ratelimitd.http.head cimport Head


cdef class RequestText:
    cdef:
        readonly str method
        readonly str host
        readonly str path
        str folded  # the path as limits compare it; None: not asked for yet
        Head head

    @staticmethod
    cdef RequestText of(str method, str host, str path, Head head)
    cdef str limit_path(self)
    cdef uint64_t limit_start(self)


cdef class Pattern:
    cdef:
        bytes first
        bytes last
        tuple middle
        bint wild

    cdef bint matches(self, const uint8_t* text, Py_ssize_t n) noexcept


cdef class Matcher:
    cdef:
        bint for_limit
        frozenset methods
        tuple hosts
        tuple paths
        tuple headers
        # what all paths of a limit start with, as `first_bytes` has it: 8 bytes at most, the mask says which
        uint64_t start
        uint64_t start_mask

    cdef bint matches(self, RequestText request) except -1
