# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""Where a chunked body ends, and whether it is one (RFC 9112, 7.1).

Fed with the bytes as they come, in any cut; says how far the body reaches. Strict: sizes are 1 to 15 hex
digits, lines end in CRLF, extensions and trailers are what the grammar says, together no more than 8 KiB above
what there is of content, and no trailer bears a name that decides framing, connection or identity. The content
without its framing is collected for those who ask for it, or the chunks in the one spelling that we write: what
is spelt so already is never cut up.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcmp

from ratelimitd.http.head cimport ACCEPT, OTHER, classify

cdef extern from "ratelimitd/http/scan.h":
    uint8_t NAME_BYTE[256]
    void scan_prepare() noexcept nogil

scan_prepare()

cdef enum:
    SIZE
    # an extension: behind the `;`, its name, space behind it, behind the `=`, its value, space behind it
    EXTENSION
    NAME
    NAME_END
    EQUALS
    VALUE
    VALUE_END
    QUOTED
    QUOTED_PAIR
    QUOTED_END
    SIZE_LF
    DATA
    DATA_CR
    DATA_LF
    LINE_START
    TRAILER_NAME
    TRAILER
    TRAILER_LF
    LAST_LF

cdef uint64_t MOST_OVERHEAD = 8192


cdef inline int hex_digit(uint8_t c) noexcept nogil:
    if c"0" <= c <= c"9":
        return c - c"0"
    if c"a" <= (c | 0x20) <= c"f":
        return (c | 0x20) - c"a" + 10
    return -1


cdef inline bint is_text(uint8_t c) noexcept nogil:
    return (c >= 0x20 and c != 0x7F) or c == c"\t"


cdef class ChunkedReader:
    """One body. `complete` is True after its last byte; `fault` says why `feed` returned -1."""

    def __cinit__(self):
        self._state = SIZE
        self.fault = ""
        self._content = []
        self._plain = []

    cdef bint _refuse(self, str fault):
        self.fault = fault
        return False

    cdef bytes take_content(self):
        """What was collected since the last call."""
        content = b"".join(self._content)
        self._content.clear()
        return content

    cdef bytes plain(self):
        """What was fed last, without extensions; None where there were none. For a reader that knows less of them."""
        return b"".join(self._plain) if self._plain else None

    cdef Py_ssize_t feed(self, bytes data, Py_ssize_t start, int collect):
        """Reads on at data[start:]. Returns how far the body reaches, at most len(data); -1: no such body."""
        cdef const uint8_t* base = <const uint8_t*>PyBytes_AS_STRING(data)
        cdef Py_ssize_t end = PyBytes_GET_SIZE(data)
        cdef Py_ssize_t at = start, plain_from = start
        cdef Py_ssize_t n
        cdef uint8_t before
        self._plain.clear()
        self._begin_run(start)
        while at < end and not self.complete:
            if self._state == DATA:
                n = <Py_ssize_t>min(self._left, <uint64_t>(end - at))
                if collect == CONTENT:
                    self._content.append(data[at : at + n])
                at += n
                self._left -= n
                if self._left == 0:
                    self._state = DATA_CR
                continue
            before = self._state
            if self._step(base[at]):
                if collect == CHUNKS and (before == SIZE_LF or before == DATA_LF):
                    self._collect_line(data, at + 1)
                if EXTENSION <= self._state < SIZE_LF:
                    if at > plain_from or not self._plain:
                        self._plain.append(data[plain_from:at])
                    plain_from = at + 1
                at += 1
            else:
                return -1
        if self._plain:
            self._plain.append(data[plain_from:at])
        if collect == CHUNKS:
            self._end_run(data, self._line if self._state <= SIZE_LF else at - (self._state == DATA_LF))
        return at

    cdef void _begin_run(self, Py_ssize_t start) noexcept:
        cdef bint in_line = self._state <= SIZE_LF and (self._state != SIZE or self._digits > 0)
        self._line = -1 if in_line else start
        self._run = -1 if in_line or self._state >= DATA_LF else start

    cdef void _end_run(self, bytes data, Py_ssize_t end):
        """Collects what goes on as it came, up to `end`; of a line that is not whole nothing does."""
        if 0 <= self._run < end:
            self._content.append(data[self._run : end])
        self._run = -1

    cdef void _collect_line(self, bytes data, Py_ssize_t end):
        """A line of framing has ended before data[end]; the last chunk's is not collected."""
        cdef bytes line
        cdef Py_ssize_t n
        if self._state == SIZE:
            self._line = end
            if self._run < 0:
                self._content.append(b"\r\n")
                self._run = end
        elif self._state == DATA:
            line = b"%x\r\n" % self._left
            n = PyBytes_GET_SIZE(line)
            if self._line < 0 or end - self._line != n or memcmp(
                PyBytes_AS_STRING(data) + self._line, PyBytes_AS_STRING(line), n
            ):
                self._end_run(data, self._line)
                self._content.append(line)
                self._run = end
        else:
            self._end_run(data, self._line)

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
        elif EXTENSION <= self._state < SIZE_LF or LINE_START <= self._state <= TRAILER:
            self._overhead += 1
            if self._overhead > MOST_OVERHEAD:
                return self._refuse("chunk extensions or trailers of 8 KiB more than there is content")
            return self._extension(c) if self._state < SIZE_LF else self._trailer(c)
        elif self._state == DATA_CR:
            if c != c"\r":
                return self._refuse("a chunk that is longer than its size")
            self._state = DATA_LF
        elif c != c"\n":
            return self._refuse("a CR without LF in the chunk framing")
        else:
            self._line_ended()
        return True

    cdef bint _extension(self, uint8_t c):
        """One byte behind `;`: name ["=" (token / quoted-string)], with white space around where RFC 9112,
        7.1.1 suffers it."""
        cdef bint space = c == c" " or c == c"\t"
        if self._state == QUOTED or self._state == QUOTED_PAIR:
            if not is_text(c):
                return self._refuse("a control character in a chunk extension")
            if self._state == QUOTED_PAIR:
                self._state = QUOTED
            elif c == c'"':
                self._state = QUOTED_END
            elif c == c"\\":
                self._state = QUOTED_PAIR
        elif self._state == EXTENSION and NAME_BYTE[c]:
            self._state = NAME
        elif self._state == EQUALS and c == c'"':
            self._state = QUOTED
        elif self._state == EQUALS and NAME_BYTE[c]:
            self._state = VALUE
        elif (self._state == NAME or self._state == VALUE) and NAME_BYTE[c]:
            pass
        elif (self._state == NAME or self._state == NAME_END) and c == c"=":
            self._state = EQUALS
        elif self._state == EXTENSION or self._state == EQUALS:
            return space or self._refuse("a chunk extension that is no name and value")
        elif c == c";":
            self._state = EXTENSION
        elif space:
            self._state = NAME_END if self._state <= NAME_END else VALUE_END
        elif c == c"\r" and self._state != NAME_END and self._state != VALUE_END:
            self._state = SIZE_LF
        else:
            return self._refuse("a chunk extension that is no name and value")
        return True

    cdef bint _trailer(self, uint8_t c):
        """One byte of a field behind the last chunk, from its start to its CR."""
        if self._state == TRAILER:
            if c == c"\r":
                self._state = TRAILER_LF
            elif not is_text(c):
                return self._refuse("a control character in a trailer")
        elif self._state == LINE_START and c == c"\r":
            self._state = LAST_LF
        elif NAME_BYTE[c]:
            if self._state == LINE_START:
                self._name_size = 0
            self._state = TRAILER_NAME
            if self._name_size < MOST_NAME:
                self._name[self._name_size] = c
            self._name_size += 1
        elif self._state == TRAILER_NAME and c == c":":
            if self._name_size <= MOST_NAME and OTHER < classify(self._name, self._name_size) < ACCEPT:
                return self._refuse("a trailer that belongs into the head")
            self._state = TRAILER
        else:
            return self._refuse("a trailer that is no name, colon and value")
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

    def read(self, data: bytes, *, chunks: bool = False) -> tuple[int, bytes]:
        """(how far the body reaches in `data`, the content in it, or its chunks); raises ValueError."""
        reach = self.feed(data, 0, CHUNKS if chunks else CONTENT)
        if reach < 0:
            raise ValueError(self.fault)
        return reach, self.take_content()
