"""The access log of a worker; `access_log.pyx` says what it promises."""

from libc.stdint cimport int64_t, uint64_t

from ratelimitd.segment.ring cimport Ring


cdef extern from "ratelimitd/proxy/access_line.h" nogil:
    enum:
        LINE_MOST

    ctypedef struct LineText:
        const char* at
        Py_ssize_t n
        int own

    ctypedef struct AccessLine:
        int64_t began_us
        int64_t decided_us
        int64_t duration_us
        int64_t bytes_in
        int64_t bytes_out
        int64_t body_out
        int status
        int minor
        const char* outcome
        LineText client
        LineText method
        LineText target
        LineText limit
        LineText upstream
        LineText server
        LineText request_id
        LineText referer
        LineText agent

    ctypedef struct LineClock:
        pass

    char* line_as_json(char* out, const AccessLine* line, LineClock* clock)
    char* line_as_combined(char* out, const AccessLine* line, LineClock* clock)


cdef struct Kept:
    # What a line needs of the head: offsets into the bytes that are kept until the request ends.
    Py_ssize_t method
    Py_ssize_t method_end
    Py_ssize_t target
    Py_ssize_t target_end  # not above `target`: there is none
    Py_ssize_t referer
    Py_ssize_t referer_end
    Py_ssize_t agent
    Py_ssize_t agent_end


cdef LineText no_text() noexcept
cdef LineText text_at(const char* base, Py_ssize_t start, Py_ssize_t end) noexcept
cdef LineText text_of(str text)
cdef LineText text_of_bytes(bytes text)


cdef class AccessLog:
    cdef:
        Ring ring
        readonly bint combined
        readonly int64_t wall_offset_us
        bint samples
        uint64_t threshold
        uint64_t random
        char* buffer
        LineClock clock

    cdef bint skips(self) noexcept
    cdef void add(self, AccessLine* line) noexcept
    cdef Py_ssize_t _format(self, AccessLine* line) noexcept
