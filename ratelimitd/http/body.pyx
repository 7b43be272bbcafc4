# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""Where a chunked body ends, and whether it is one (RFC 9112, 7.1).

Fed with the bytes as they come, in any cut; says how far the body reaches. Strict: sizes are 1 to 15 hex
digits, lines end in CRLF, extensions and trailers are visible text and bounded. The bytes themselves pass
unchanged; the content without its framing is collected only for a client that does not know chunks.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t

cdef enum:
    SIZE
    EXTENSION
    SIZE_LF
    DATA
    DATA_CR
    DATA_LF
    LINE_START
    TRAILER
    TRAILER_LF
    LAST_LF

cdef int MOST_OVERHEAD = 8192


cdef inline int hex_digit(uint8_t c) noexcept nogil:
    if c"0" <= c <= c"9":
        return c - c"0"
    if c"a" <= (c | 0x20) <= c"f":
        return (c | 0x20) - c"a" + 10
    return -1


cdef class ChunkedReader:
    """One body. `complete` is True after its last byte; `fault` says why `feed` returned -1."""

    def __cinit__(self):
        self._state = SIZE
        self.fault = ""
        self._content = []

    cdef Py_ssize_t _fail(self, str fault):
        self.fault = fault
        return -1

    cdef bytes take_content(self):
        """The content seen since the last call, without chunk framing."""
        content = b"".join(self._content)
        self._content.clear()
        return content

    cdef Py_ssize_t feed(self, bytes data, Py_ssize_t start, bint collect):
        """Reads on at data[start:]. Returns how far the body reaches, at most len(data); -1: no such body."""
        cdef const uint8_t* base = <const uint8_t*>PyBytes_AS_STRING(data)
        cdef Py_ssize_t end = PyBytes_GET_SIZE(data)
        cdef Py_ssize_t at = start
        cdef Py_ssize_t n
        cdef int digit
        cdef uint8_t c
        while at < end:
            if self._state == DATA:
                n = <Py_ssize_t>min(self._left, <unsigned long long>(end - at))
                if collect:
                    self._content.append(data[at : at + n])
                at += n
                self._left -= n
                if self._left == 0:
                    self._state = DATA_CR
                continue
            c = base[at]
            at += 1
            if self._state == SIZE:
                digit = hex_digit(c)
                if digit >= 0:
                    self._digits += 1
                    if self._digits > 15:
                        return self._fail("a chunk size of more than 15 digits")
                    self._left = self._left * 16 + digit
                elif self._digits == 0:
                    return self._fail("a chunk without a size")
                elif c == c"\r":
                    self._state = SIZE_LF
                elif c == c";":
                    self._state = EXTENSION
                else:
                    return self._fail("a chunk size that is no hex number")
            elif self._state == EXTENSION or self._state == TRAILER:
                self._overhead += 1
                if c == c"\r":
                    self._state = SIZE_LF if self._state == EXTENSION else TRAILER_LF
                elif (c < 0x20 and c != c"\t") or c == 0x7F:
                    return self._fail("a control character in a chunk extension or trailer")
                elif self._overhead > MOST_OVERHEAD:
                    return self._fail("chunk extensions or trailers of more than 8 KiB")
            elif self._state == DATA_CR:
                if c != c"\r":
                    return self._fail("a chunk that is longer than its size")
                self._state = DATA_LF
            elif self._state == LINE_START:
                self._state = LAST_LF if c == c"\r" else TRAILER
                if c < 0x21 and c != c"\r":
                    return self._fail("a trailer that starts with a space or a control character")
            else:
                if c != c"\n":
                    return self._fail("a CR without LF in the chunk framing")
                if self._state == LAST_LF:
                    self.complete = True
                    return at
                if self._state == SIZE_LF:
                    self._state = DATA if self._left else LINE_START
                elif self._state == DATA_LF:
                    self._state = SIZE
                else:
                    self._state = LINE_START
                self._digits = 0
        return at

    def read(self, data: bytes) -> tuple[int, bytes]:
        """(how far the body reaches in `data`, the content in it); raises ValueError."""
        reach = self.feed(data, 0, True)
        if reach < 0:
            raise ValueError(self.fault)
        return reach, self.take_content()
