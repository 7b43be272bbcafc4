# cython: boundscheck=False, wraparound=False, embedsignature=False
"""A ring of whole lines between one process that writes and one thread that reads; neither ever waits.

A line is in it whole or not at all, whatever becomes of the writer; one without room is dropped and counted.
The ring outlives its writer: what a dead one left is still read, and the next one goes on behind it. How that
works is in ring.h.
"""

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from ratelimitd.errors import SegmentError

cdef extern from "<string.h>" nogil:
    void* memchr(const void* s, int c, size_t n)
    void* memrchr(const void* s, int c, size_t n)


cdef class Ring:
    """The ring at `offset` of `memory`: a header of 64 bytes, then `size` bytes, a power of two."""

    def __cinit__(self, memory, Py_ssize_t offset, Py_ssize_t size):
        PyObject_GetBuffer(memory, &self.view, PyBUF_WRITABLE)
        self.attached = True
        if size < 64 or size & (size - 1) or offset % 64 or offset + RING_HEADER + size > self.view.len:
            raise SegmentError(f"a ring of {size} bytes at {offset} does not fit into {self.view.len} bytes")
        self.header = <RingHeader*>(<char*>self.view.buf + offset)
        self.size = size

    def __dealloc__(self):
        if self.attached:
            PyBuffer_Release(&self.view)

    cdef bint put(self, const char* line, size_t n) noexcept nogil:
        return ring_put(self.header, self.size, line, n)

    def append(self, bytes line not None):
        """Writes a line, its newline included; False when there was no room."""
        return self.put(PyBytes_AS_STRING(line), PyBytes_GET_SIZE(line))

    def take(self, Py_ssize_t most):
        """Reads whole lines, up to `most` bytes of them, or one line that is longer; b"" when there is none."""
        cdef size_t filled = ring_filled(self.header, self.size)
        cdef size_t n = min(filled, <size_t>max(most, 1))
        cdef bytes lines
        cdef char* end = NULL
        if filled == 0:
            return b""
        lines = PyBytes_FromStringAndSize(NULL, n)
        ring_copy(self.header, self.size, PyBytes_AS_STRING(lines), n)
        if n < filled:
            end = <char*>memrchr(PyBytes_AS_STRING(lines), c"\n", n)
            if end is NULL:
                lines = PyBytes_FromStringAndSize(NULL, filled)
                ring_copy(self.header, self.size, PyBytes_AS_STRING(lines), filled)
                end = <char*>memchr(PyBytes_AS_STRING(lines), c"\n", filled)
            if end is not NULL:
                lines = lines[: end + 1 - PyBytes_AS_STRING(lines)]
        ring_release(self.header, PyBytes_GET_SIZE(lines))
        return lines

    @property
    def filled(self):
        """Bytes that wait to be read."""
        return ring_filled(self.header, self.size)

    @property
    def dropped(self):
        """Lines for which there was no room, since the ring was made."""
        return self.header.dropped
