"""The heads of HTTP/1.1 messages, for the modules of the hot path; `head.pyx` says what each promises."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t


cdef enum FieldName:
    OTHER = 0
    # framing
    HOST
    CONTENT_LENGTH
    TRANSFER_ENCODING
    EXPECT
    # of this connection only (RFC 9110, 7.6.1)
    CONNECTION
    KEEP_ALIVE
    PROXY_CONNECTION
    TE
    UPGRADE
    HTTP2_SETTINGS
    # about the client and the way of the request
    X_FORWARDED_FOR
    X_FORWARDED_PROTO
    X_FORWARDED_HOST
    FORWARDED
    VIA
    # negotiation and limits
    ACCEPT
    RATELIMIT
    RATELIMIT_POLICY
    ALIAS  # one of ours, spelt with `_` for `-`


cdef FieldName classify(const uint8_t* name, size_t n) noexcept nogil


cdef struct Field:
    uint32_t start  # of the name; the field ends where the next one starts
    uint32_t name_end
    uint32_t value_start
    uint32_t value_end
    uint8_t name  # a FieldName
    uint8_t drop  # 1: not forwarded
    uint8_t underscore  # 1: the name holds a `_`


cdef class Head:
    """Parses one head after another into the same memory; what it holds is valid until the next parse."""

    cdef:
        const uint8_t* base
        Py_ssize_t start
        Py_ssize_t end
        Field* fields
        int capacity
        int count
        Py_ssize_t fields_start
        Py_ssize_t target_start
        Py_ssize_t target_end
        Py_ssize_t method_end
        int minor
        int status
        int64_t content_length  # -1: none given
        bint chunked
        bint keep_alive
        bint closes  # a Connection field says `close`, whatever else it says
        bint expects_continue
        bint upgrades
        bint has_te
        bint is_head
        bint raw_target  # it holds UTF-8 that is not percent-encoded
        bint odd_length  # Content-Length is not spelt as everybody does
        bint underscores  # one of the names holds a `_`
        int host  # index of the field, -1: none
        const char* fault

    cdef Py_ssize_t find_end(self, bytes data, Py_ssize_t start, size_t* resume) noexcept
    cdef int parse_request(self, bytes data, Py_ssize_t start, Py_ssize_t end, Py_ssize_t target_bound)
    cdef int parse_response(self, bytes data, Py_ssize_t start, Py_ssize_t end)
    cdef int find(self, bytes name) noexcept
    cdef int find_next(self, bytes name, int after) noexcept
    cdef void drop_all(self, FieldName name) noexcept
    cdef bytes value(self, int index)
    cdef bytes method(self)
    cdef bytes target(self)
    cdef bytes render(self, bytes first_line, bytes added, Py_ssize_t body_end)
    cdef int _fail(self, int status, const char* fault) noexcept
    cdef int _request_line(self, Py_ssize_t line_end, Py_ssize_t target_bound) noexcept
    cdef int _status_line(self, Py_ssize_t line_end) noexcept
    cdef int _read_fields(self, Py_ssize_t at) noexcept
    cdef int _framing(self, bint is_request) noexcept
    cdef int _content_length(self, Field* field) noexcept
    cdef bytes plain_length(self)
    cdef int _connection(self, Field* field, bint is_request) noexcept
    cdef int _check_host(self) noexcept
    cdef int _check_target(self) noexcept
