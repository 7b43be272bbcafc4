"""Body framing for the modules of the hot path; `body.pyx` says what it promises."""

from libc.stdint cimport uint8_t, uint64_t

cdef enum:
    MOST_NAME = 32  # of a trailer: longer than any that we know

    # what `feed` collects for `take_content`
    NONE = 0
    CONTENT = 1
    CHUNKS = 2  # the content in chunks of the same sizes, each line in one spelling, and nothing else of their framing


cdef class ChunkedReader:
    cdef:
        uint8_t _state
        uint64_t _left  # bytes of the chunk that is read
        int _digits
        uint64_t _overhead  # bytes of extensions and trailers that no content has made up for
        readonly bint complete
        readonly str fault
        uint8_t _name[MOST_NAME]
        int _name_size
        list _content
        list _plain
        Py_ssize_t _run  # of what was fed last: where those bytes begin that are collected as they came; -1: none
        Py_ssize_t _line  # and the line of a size that is or was read last; -1: it began before
        readonly uint64_t length  # of all chunks so far; of the one that is read: what it says of itself

    cdef Py_ssize_t feed(self, bytes data, Py_ssize_t start, int collect)
    cdef bytes take_content(self)
    cdef bytes plain(self)
    cdef void _begin_run(self, Py_ssize_t start) noexcept
    cdef void _end_run(self, bytes data, Py_ssize_t end)
    cdef void _collect_line(self, bytes data, Py_ssize_t end)
    cdef bint _step(self, uint8_t c)
    cdef bint _extension(self, uint8_t c)
    cdef bint _trailer(self, uint8_t c)
    cdef void _line_ended(self) noexcept
    cdef bint _refuse(self, str fault)
