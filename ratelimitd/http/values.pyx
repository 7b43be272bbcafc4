# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""Heads as frozen values, read by the parser of the hot path: for tests, tools and whoever is in no hurry."""

from cpython.bytes cimport PyBytes_FromStringAndSize

from ratelimitd.http.head cimport Head

from ratelimitd.errors import ClientFault, UpstreamFault
from ratelimitd.http.message import RequestHead, ResponseHead


cdef tuple _fields(Head head, bint forwarded):
    return tuple([
        (
            PyBytes_FromStringAndSize(
                <const char*>head.base + head.fields[i].start, head.fields[i].name_end - head.fields[i].start
            ),
            head.value(i),
        )
        for i in range(head.count)
        if not (forwarded and head.fields[i].drop)
    ])


def head_end(data: bytes, start: int = 0, resume: int = 0) -> tuple[int, int]:
    """(offset behind the head that starts at `start`, offset to resume at); the first is 0 while the head is
    not whole and -1 for a line that ends in a bare LF."""
    cdef size_t at = resume
    cdef Head head = Head(1)
    cdef Py_ssize_t end = head.find_end(data, start, &at)
    return end, at


def read_request(data: bytes, most_fields: int = 100, most_target: int = 8192) -> RequestHead | None:
    """The request head at the start of `data`; None while it is not whole. Raises ClientFault."""
    cdef Head head = Head(most_fields)
    cdef size_t resume = 0
    cdef Py_ssize_t end = head.find_end(data, 0, &resume)
    cdef int status
    if end == 0:
        return None
    if end < 0:
        raise ClientFault(400, "a line ends in a bare LF")
    status = head.parse_request(data, 0, end, most_target)
    if status:
        raise ClientFault(status, head.fault.decode())
    return RequestHead(
        head.method(), head.target(), head.minor, _fields(head, False), _fields(head, True),
        None if head.content_length < 0 else head.content_length, head.chunked, head.keep_alive, end,
    )


def read_response(data: bytes, most_fields: int = 100) -> ResponseHead | None:
    """The head of an answer at the start of `data`; None while it is not whole. Raises UpstreamFault."""
    cdef Head head = Head(most_fields)
    cdef size_t resume = 0
    cdef Py_ssize_t end = head.find_end(data, 0, &resume)
    if end == 0:
        return None
    if end < 0 or head.parse_response(data, 0, end):
        raise UpstreamFault(502, "a line ends in a bare LF" if end < 0 else head.fault.decode())
    return ResponseHead(
        head.status, head.minor, _fields(head, False), _fields(head, True),
        None if head.content_length < 0 else head.content_length, head.chunked, head.keep_alive, end,
    )
