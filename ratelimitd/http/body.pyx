# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""Where a chunked body ends, and whether it is one (RFC 9112, 7.1).

Fed with the bytes as they come, in any cut; says how far the body reaches. Strict: sizes are 1 to 15 hex
digits, lines end in CRLF, extensions and trailers are visible text and bounded. The bytes themselves pass
unchanged; the content without its framing is collected only for a client that does not know chunks.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t

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

    cdef bint _refuse(self, str fault):
        self.fault = fault
        return False

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
        while at < end and not self.complete:
            if self._state == DATA:
                n = <Py_ssize_t>min(self._left, <uint64_t>(end - at))
                if collect:
                    self._content.append(data[at : at + n])
                at += n
                self._left -= n
                if self._left == 0:
                    self._state = DATA_CR
            elif self._step(base[at]):
                at += 1
            else:
                return -1
        return at

    cdef bint _step(self, uint8_t c):
        """One byte of framing; False: it cannot stand here."""
        cdef int digit
        if self._state == SIZE:
            digit = hex_digit(c)
            if digit >= 0:
                self._digits += 1
                self._left = self._left * 16 + digit
                return self._digits <= 15 or self._refuse("a chunk size of more than 15 digits")
            if self._digits == 0:
                return self._refuse("a chunk without a size")
            if c != c"\r" and c != c";":
                return self._refuse("a chunk size that is no hex number")
            self._state = SIZE_LF if c == c"\r" else EXTENSION
        elif self._state == EXTENSION or self._state == TRAILER:
            self._overhead += 1
            if self._overhead > MOST_OVERHEAD:
                return self._refuse("chunk extensions or trailers of more than 8 KiB")
            if c == c"\r":
                self._state = SIZE_LF if self._state == EXTENSION else TRAILER_LF
            elif (c < 0x20 and c != c"\t") or c == 0x7F:
                return self._refuse("a control character in a chunk extension or trailer")
        elif self._state == DATA_CR:
            if c != c"\r":
                return self._refuse("a chunk that is longer than its size")
            self._state = DATA_LF
        elif self._state == LINE_START:
            if c < 0x21 and c != c"\r":
                return self._refuse("a trailer that starts with a space or a control character")
            self._state = LAST_LF if c == c"\r" else TRAILER
        elif c != c"\n":
            return self._refuse("a CR without LF in the chunk framing")
        else:
            self._line_ended()
        return True

    cdef void _line_ended(self) noexcept:
        """The LF of a line of framing was read."""
        self._digits = 0
        if self._state == LAST_LF:
            self.complete = True
        elif self._state == SIZE_LF:
            self._state = DATA if self._left else LINE_START
        elif self._state == DATA_LF:
            self._state = SIZE
        else:
            self._state = LINE_START

    def read(self, data: bytes) -> tuple[int, bytes]:
        """(how far the body reaches in `data`, the content in it); raises ValueError."""
        reach = self.feed(data, 0, True)
        if reach < 0:
            raise ValueError(self.fault)
        return reach, self.take_content()
