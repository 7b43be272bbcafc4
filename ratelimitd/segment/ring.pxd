"""A ring of whole lines in the shared segment; `ring.h` says how two processes use it without waiting."""

from libc.stdint cimport uint64_t


cdef extern from "ratelimitd/segment/ring.h" nogil:
    enum:
        RING_HEADER

    ctypedef struct RingHeader:
        uint64_t head
        uint64_t tail
        uint64_t dropped

    int ring_put(RingHeader* ring, size_t size, const char* line, size_t n)
    size_t ring_filled(RingHeader* ring, size_t size)
    void ring_copy(RingHeader* ring, size_t size, char* out, size_t n)
    void ring_release(RingHeader* ring, size_t n)


cdef class Ring:
    cdef RingHeader* header
    cdef size_t size
    cdef Py_buffer view
    cdef bint attached

    # 0: there was no room; the line is counted as dropped. It must end in a newline, its only one.
    cdef bint put(self, const char* line, size_t n) noexcept nogil
