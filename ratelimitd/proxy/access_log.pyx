# cython: boundscheck=False, wraparound=False, initializedcheck=False, embedsignature=False
"""The access log as a worker writes it: one line for each request, formatted when it ends, into its ring.

The supervisor empties the ring; when it does not, lines are dropped and counted there, and no request waits.
What a line holds is given as an AccessLine, pointers into memory of the caller. The text is made by
access_line.h, which says how a client's bytes are escaped. `sample` is about forwarded requests alone: what
was refused or failed is always logged.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport int64_t, uint64_t

from ratelimitd.segment.ring cimport Ring


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
        cdef bytes outcome = values["outcome"].encode().ljust(LINE_OUTCOME)
        line.began_us, line.decided_us = values["began_us"], values["decided_us"]
        line.duration_us, line.body_out = values["duration_us"], values["body_out"]
        line.bytes_in, line.bytes_out = values["bytes_in"], values["bytes_out"]
        line.status, line.minor = values["status"], values["minor"]
        line.outcome, line.outcome_n = PyBytes_AS_STRING(outcome), len(values["outcome"])
        tell_own(&line.client, values["client"])
        tell_own(&line.limit, values["limit"])
        tell_own(&line.upstream, values["upstream"])
        tell_own(&line.server, values["server"])
        tell_bytes(&line.method, values["method"])
        tell_bytes(&line.target, values["target"])
        tell_bytes(&line.request_id, values["request_id"])
        tell_bytes(&line.referer, values["referer"])
        tell_bytes(&line.agent, values["agent"])
        return PyBytes_FromStringAndSize(self.buffer, self._format(&line))

    def skip(self):
        """Whether the next forwarded request would not be logged."""
        return self.skips()
