# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""The body of a request, read as it comes: how far it reaches, and what of it goes on to the server.

Two readers must find the same end (our own count or `body`, and llhttp). A body of a told length goes on as
it came. Of chunks the sizes stay, but their lines are written anew: spellings of sizes and extensions are where
servers read differently, so the server gets the one that all of them know, the same bytes however they came, and
the last chunk only when the body was valid to its end. Trailers end here (RFC 9112, 7.1.2): servers that merge
them into the head would take from them what the head must not say.
"""

from cpython.bytes cimport PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint64_t

from ratelimitd.http.body cimport CHUNKS, NONE, ChunkedReader
from ratelimitd.http.second_reader cimport Witness

cdef bytes LAST_CHUNK = b"0\r\n\r\n"


cdef class RequestBody:
    """One body; `witness` has read its head. `fault` says why `feed` returned -1."""

    def __cinit__(self, int64_t content_length, bint chunked, Witness witness):
        self.chunks = ChunkedReader() if chunked else None
        self.left = 1 if chunked else content_length
        self.witness = witness

    cdef Py_ssize_t _refuse(self, str fault):
        self.fault = fault
        return -1

    cdef Py_ssize_t feed(self, bytes data, Py_ssize_t start, bint wanted):
        """Reads on at data[start:]. Returns how far the body reaches, at most len(data); -1: no such body. Not
        `wanted`: there will be no question for its part."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data), reach
        cdef object seen = None
        if self.chunks is None:
            reach = <Py_ssize_t>min(<int64_t>size, start + self.left)
            self.left -= reach - start
        else:
            reach = self.chunks.feed(data, start, CHUNKS if wanted else NONE)
            if reach < 0:
                return self._refuse(self.chunks.fault)
            self.left = not self.chunks.complete
            seen = self.chunks.plain()
        if reach > start:
            if seen is None:
                seen = data if start == 0 and reach == size else memoryview(data)[start:reach]
            if not self.witness.feed(seen) or self.witness.complete != (self.left == 0):
                return self._refuse("the body can be read in more than one way")
        return reach

    cdef bytes part(self, bytes data, Py_ssize_t start, Py_ssize_t reach):
        """What goes on of data[start:reach], which was fed last."""
        cdef bytes content
        if self.chunks is None:
            return data if start == 0 and reach == PyBytes_GET_SIZE(data) else data[start:reach]
        content = self.chunks.take_content()
        return content if self.left else content + LAST_CHUNK

    cdef uint64_t length(self) noexcept:
        """Of the chunks so far, the one that is read as large as it says; 0 where the length was told."""
        return self.chunks.length if self.chunks is not None else 0
