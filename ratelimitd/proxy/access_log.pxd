"""The access log of a worker; `access_log.pyx` says what it promises."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint64_t

from ratelimitd.segment.ring cimport Ring


cdef extern from "Python.h":
    bint PyUnicode_IS_COMPACT_ASCII(object text)
    void* PyUnicode_DATA(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* n) except NULL


cdef extern from "ratelimitd/proxy/access_line.h" nogil:
    enum:
        LINE_MOST
        LINE_OUTCOME

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
        int outcome_n
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


cdef inline void no_text(LineText* text) noexcept:
    text.n = -1


cdef inline void tell_sent(LineText* text, const char* base, Py_ssize_t start, Py_ssize_t end) noexcept:
    """Bytes of a client; no text when `end` is not above `start`."""
    text.at = base + start
    text.n = end - start if end > start else -1
    text.own = 0


cdef inline void tell_bytes(LineText* text, bytes value) noexcept:
    if value is None:
        no_text(text)
    else:
        tell_sent(text, PyBytes_AS_STRING(value), 0, PyBytes_GET_SIZE(value))


cdef inline int tell_own(LineText* text, str value) except -1:
    """A text of our own or of the configuration, which must outlive the line; `value` may be None."""
    if value is None:
        no_text(text)
        return 0
    text.own = 1
    if PyUnicode_IS_COMPACT_ASCII(value):
        text.at = <const char*>PyUnicode_DATA(value)
        text.n = PyUnicode_GET_LENGTH(value)
    else:
        text.at = PyUnicode_AsUTF8AndSize(value, &text.n)
    return 0


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
