"""The request on its way to a server; `upload.pyx` says what it promises."""

from ratelimitd.http.head cimport Head
from ratelimitd.proxy.exchange cimport Exchange

cdef str BODY_TOO_LARGE


cdef class Upload(Exchange):
    cdef void refuse(self, int status, str detail)
    cdef void forward_with_body(self, Head head, bytes lines)
    cdef void take_body(self)
    cdef bint end_within_body(self)
    cdef void send(self)
    cdef void _send_parts(self)
    cdef void _throw_away(self)
    cdef void _end_in_body(self, int status, str detail)
