# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""Where a chunked body ends, and whether it is one (RFC 9112, 7.1).

Fed with the bytes as they come, in any cut; says how far the body reaches. Strict: sizes are 1 to 15 hex
digits, lines end in CRLF, extensions and trailers follow their grammar, and no trailer says anything of the
framing or the host. Extensions and trailers are bounded by 8 KiB more than there is content, so they cannot
be most of a body. The content without its framing is collected for those who ask for it.
"""

import re

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t

cdef extern from "ratelimitd/http/scan.h":
    size_t scan_text(const uint8_t* p, size_t n) noexcept nogil

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

cdef uint64_t MOST_OVERHEAD = 8192

cdef bytes TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
cdef bytes QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
cdef object is_extension = re.compile(
    rb"(?:[ \t]*;[ \t]*%b(?:[ \t]*=[ \t]*(?:%b|%b))?)+" % (TOKEN, TOKEN, QUOTED)
).fullmatch
cdef object is_field = re.compile(rb"(%b):.*" % TOKEN).fullmatch
# What must be known before the content cannot stand behind it (RFC 9110, 6.5.1).
cdef frozenset NO_TRAILERS = frozenset((b"host", b"content-length", b"transfer-encoding"))


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
        self._text = b""
        self._content = []
        self._plain = []

    cdef bint _refuse(self, str fault):
        self.fault = fault
        return False

    cdef bytes take_content(self):
        """The content seen since the last call, without chunk framing."""
        content = b"".join(self._content)
        self._content.clear()
        return content

    cdef bytes plain(self):
        """What was fed last, without extensions; None where there were none. For a reader that knows less of them."""
        return b"".join(self._plain) if self._plain else None

    cdef Py_ssize_t feed(self, bytes data, Py_ssize_t start, bint collect):
        """Reads on at data[start:]. Returns how far the body reaches, at most len(data); -1: no such body."""
        cdef const uint8_t* base = <const uint8_t*>PyBytes_AS_STRING(data)
        cdef Py_ssize_t end = PyBytes_GET_SIZE(data)
        cdef Py_ssize_t at = start, plain_from = start
        cdef Py_ssize_t n
        self._plain.clear()
        while at < end and not self.complete:
            if self._state == DATA:
                n = <Py_ssize_t>min(self._left, <uint64_t>(end - at))
                if collect:
                    self._content.append(data[at : at + n])
                at += n
                self._left -= n
                if self._left == 0:
                    self._state = DATA_CR
            elif self._state == EXTENSION or self._state == TRAILER:
                n = scan_text(base + at, end - at)
                if self._state == EXTENSION:
                    self._plain.append(data[plain_from:at])
                    plain_from = at + n
                if not self._take_text(data[at : at + n]):
                    return -1
                at += n
                if at < end and base[at] != c"\r":
                    self._refuse("a control character in a chunk extension or trailer")
                    return -1
                if at < end and not self._text_ended():
                    return -1
                at += at < end
            elif self._state == SIZE and self._digits and base[at] == c";":
                self._state = EXTENSION
            elif self._state == LINE_START and base[at] != c"\r":
                self._state = TRAILER
            elif self._step(base[at]):
                at += 1
            else:
                return -1
        if self._plain:
            self._plain.append(data[plain_from:at])
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
            if c != c"\r":
                return self._refuse("a chunk size that is no hex number")
            self._state = SIZE_LF
        elif self._state == DATA_CR:
            if c != c"\r":
                return self._refuse("a chunk that is longer than its size")
            self._state = DATA_LF
        elif self._state == LINE_START:
            self._state = LAST_LF
        elif c != c"\n":
            return self._refuse("a CR without LF in the chunk framing")
        else:
            self._line_ended()
        return True

    cdef bint _take_text(self, bytes text):
        """More of an extension or trailer."""
        self._overhead += PyBytes_GET_SIZE(text)
        if self._overhead > MOST_OVERHEAD:
            return self._refuse("chunk extensions or trailers of 8 KiB more than there is content")
        self._text += text
        return True

    cdef bint _text_ended(self):
        """The CR behind an extension or trailer was read."""
        cdef bytes text = self._text
        self._text = b""
        if self._state == EXTENSION:
            self._state = SIZE_LF
            return is_extension(text) is not None or self._refuse("a malformed chunk extension")
        self._state = TRAILER_LF
        field = is_field(text)
        if field is None:
            return self._refuse("a trailer must be a name, a colon and a value, in one line")
        if field[1].lower().replace(b"_", b"-") in NO_TRAILERS:
            return self._refuse("a trailer that says something of the framing or the host")
        return True

    cdef void _line_ended(self) noexcept:
        """The LF of a line of framing was read."""
        self._digits = 0
        if self._state == LAST_LF:
            self.complete = True
        elif self._state == SIZE_LF:
            self.length += self._left
            self._overhead -= min(self._overhead, self._left)
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
