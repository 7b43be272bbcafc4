"""What is added to a request on its way; `forwarding.pyx` says by which rules."""

from libc.stdint cimport uint64_t

from ratelimitd.http.head cimport Head


cdef struct Text:  # that is written, or, without a place, only measured
    char* out
    Py_ssize_t n


cdef class Forwarding:
    cdef:
        bint sends_x_forwarded
        bint sends_forwarded
        bint believes_x_forwarded
        bint believes_forwarded
        bytes request_id
        bytes request_id_line
        bytes via_line
        tuple own_names  # lower case: fields that a `_` must not counterfeit
        uint64_t seed_high
        uint64_t seed_low
        bytes id  # of the request that `lines` was asked about last: ours or the one kept; None: none

    cdef bytes lines(self, Head head, bytes peer_lines, bytes peer, bytes scheme, bint trusted)
    cdef bytes _identity(self, Head head, bytes peer_lines, bytes peer, bytes scheme, bint trusted)
    cdef bytes _fresh(self, Head head, bytes peer_lines)
    cdef bytes _extended(self, Head head, bytes peer, bytes scheme, bint trusted)
    cdef void _tell(
        self, Text* text, Head head, bytes peer, bytes scheme, bint with_host, bint trusted, bytes forwarded, bytes id
    ) noexcept
    cdef bytes _forwarded(self, Head head, bytes peer, bytes scheme, bint believed)
    cdef bytes id_of_refused(self, Head head, bint trusted)
    cdef void _drop_counterfeits(self, Head head)
    cdef bint _keeps_request_id(self, Head head, bint trusted)
    cdef bytes _next_id(self)
    cpdef bytes peer_lines(self, bytes peer, bytes scheme)
