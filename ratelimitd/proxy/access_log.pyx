# cython: boundscheck=False, wraparound=False, initializedcheck=False, embedsignature=False
"""The access log as a worker writes it: one line for each request, formatted when it ends, into its ring.

The supervisor empties the ring; when it does not, lines are dropped and counted there, and no request waits.
What a line holds is given as an AccessLine, pointers into memory of the caller. The text is made by
access_line.h, which says how a client's bytes are escaped. `sample` is about forwarded requests alone: what
was refused or failed is always logged.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport int64_t, uint64_t

from ratelimitd.segment.ring cimport Ring

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* n) except NULL


cdef LineText no_text() noexcept:
    return LineText(at=NULL, n=-1, own=0)


cdef LineText text_at(const char* base, Py_ssize_t start, Py_ssize_t end) noexcept:
    """Bytes of a client; no text when `end` is not above `start`."""
    if end <= start:
        return no_text()
    return LineText(at=base + start, n=end - start, own=0)


cdef LineText text_of(str text):
    """A text of our own or of the configuration, which must outlive the line."""
    cdef LineText result = no_text()
    if text is not None:
        result.at = PyUnicode_AsUTF8AndSize(text, &result.n)
        result.own = 1
    return result


cdef LineText text_of_bytes(bytes text):
    if text is None:
        return no_text()
    return LineText(at=PyBytes_AS_STRING(text), n=PyBytes_GET_SIZE(text), own=0)


cdef class AccessLog:
    """Made from `log` of the configuration (not for `access: none`); `wall_offset_us` takes the clock of the
    table to the time since 1970, and `seed` is where sampling begins."""

    def __cinit__(self, Ring ring not None, log, int64_t wall_offset_us, uint64_t seed):
        self.buffer = <char*>PyMem_Malloc(LINE_MOST)
        if self.buffer is NULL:
            raise MemoryError
        self.ring = ring
        self.combined = log.access == "combined"
        self.wall_offset_us = wall_offset_us
        self.samples = log.sample < 1
        self.threshold = <uint64_t>(min(log.sample, 1) * 0xFFFFFFFFFFFFF800) if self.samples else 0
        self.random = seed | 1

    def __dealloc__(self):
        PyMem_Free(self.buffer)

    cdef bint skips(self) noexcept:
        """Whether a forwarded request is one that is not logged (xorshift64*)."""
        if not self.samples:
            return False
        self.random ^= self.random >> 12
        self.random ^= self.random << 25
        self.random ^= self.random >> 27
        return self.random * <uint64_t>0x2545F4914F6CDD1D >= self.threshold

    cdef void add(self, AccessLine* line) noexcept:
        self.ring.put(self.buffer, self._format(line))

    cdef Py_ssize_t _format(self, AccessLine* line) noexcept:
        """The length of the line in `buffer`."""
        if self.combined:
            return line_as_combined(self.buffer, line, &self.clock) - self.buffer
        return line_as_json(self.buffer, line, &self.clock) - self.buffer

    def render(self, dict values not None):
        """The line of `values`, by the names of AccessLine: how tests see what a worker would write."""
        cdef AccessLine line
        cdef bytes outcome = values["outcome"].encode()
        line.began_us, line.decided_us = values["began_us"], values["decided_us"]
        line.duration_us, line.body_out = values["duration_us"], values["body_out"]
        line.bytes_in, line.bytes_out = values["bytes_in"], values["bytes_out"]
        line.status, line.minor = values["status"], values["minor"]
        line.outcome = PyBytes_AS_STRING(outcome)
        line.client, line.limit = text_of(values["client"]), text_of(values["limit"])
        line.upstream, line.server = text_of(values["upstream"]), text_of(values["server"])
        line.method, line.target = text_of_bytes(values["method"]), text_of_bytes(values["target"])
        line.request_id = text_of_bytes(values["request_id"])
        line.referer, line.agent = text_of_bytes(values["referer"]), text_of_bytes(values["agent"])
        return PyBytes_FromStringAndSize(self.buffer, self._format(&line))

    def skip(self):
        """Whether the next forwarded request would not be logged."""
        return self.skips()
