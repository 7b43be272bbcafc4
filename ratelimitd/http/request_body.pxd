"""The body of one request; `request_body.pyx` says what it promises."""

from libc.stdint cimport int64_t, uint64_t

from ratelimitd.http.body cimport ChunkedReader
from ratelimitd.http.second_reader cimport Witness


cdef class RequestBody:
    cdef:
        ChunkedReader chunks  # None: its length was told
        Witness witness
        int64_t left  # bytes that were not read; in chunks: 1 until they are complete
        str fault

    cdef Py_ssize_t feed(self, bytes data, Py_ssize_t start, bint wanted)
    cdef bytes part(self, bytes data, Py_ssize_t start, Py_ssize_t reach)
    cdef uint64_t length(self) noexcept
    cdef Py_ssize_t _refuse(self, str fault)
