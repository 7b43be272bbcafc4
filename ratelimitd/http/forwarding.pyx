# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""Which fields tell the upstream who asked, and what is believed of those that came.

From anybody but a trusted proxy they are replaced; from a trusted one the believed field is extended by the
peer and the others are removed. A field that differs from one of ours only by `_` for `-` is removed, since
many servers read both as one. Framing and connection fields are `head`'s business.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

from ratelimitd.http.head cimport FORWARDED, Head, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO

# Two hex digits for each value of a byte.
cdef bytes HEX_TEXT = b"".join([b"%02x" % value for value in range(256)])
cdef const char* HEX = HEX_TEXT
cdef bytes HOST_PREFIX = b"X-Forwarded-Host: "
cdef bytes FOR_PREFIX = b"X-Forwarded-For: "
cdef bytes PROTO_PREFIX = b"\r\nX-Forwarded-Proto: "
cdef bytes NOTHING = b""
cdef enum:
    ID_DIGITS = 32


cdef inline uint64_t mix(uint64_t x) noexcept nogil:
    """SplitMix64's finalizer: a counter becomes a number without a visible order."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL
    return x ^ (x >> 31)


cdef inline char* put(char* out, bytes text) noexcept:
    cdef Py_ssize_t n = PyBytes_GET_SIZE(text)
    memcpy(out, PyBytes_AS_STRING(text), n)
    return out + n


cdef inline void tell(Text* text, const void* part, Py_ssize_t n) noexcept:
    if text.out is not NULL:
        memcpy(text.out + text.n, part, n)
    text.n += n


cdef inline void tell_bytes(Text* text, bytes part) noexcept:
    tell(text, PyBytes_AS_STRING(part), PyBytes_GET_SIZE(part))


cdef inline void tell_value(Text* text, Head head, int i) noexcept:
    tell(text, head.base + head.fields[i].value_start, head.fields[i].value_end - head.fields[i].value_start)


cdef class Forwarding:
    """Made from `headers` of the configuration, the believed field of `clients`, the names of fields that are
    keys, and 16 random bytes for request ids."""

    def __init__(self, headers, str believed, tuple key_names, bytes seed):
        self.sends_x_forwarded = headers.forwarded in ("x-forwarded-for", "both")
        self.sends_forwarded = headers.forwarded in ("forwarded", "both")
        self.believes_x_forwarded = believed == "x-forwarded-for"
        self.believes_forwarded = believed == "forwarded"
        self.request_id = headers.request_id.lower().encode("latin-1")
        self.request_id_line = headers.request_id.encode("latin-1") + b": "
        self.via_line = b"Via: 1.1 ratelimitd\r\n" if headers.via else b""
        self.own_names = tuple({name for name in (*key_names, self.request_id) if name})
        self.seed_high = int.from_bytes(seed[:8], "little")
        self.seed_low = int.from_bytes(seed[8:], "little")

    cdef bytes lines(self, Head head, bytes peer_lines, bytes peer, bytes scheme, bint trusted):
        """Marks in `head` what must go and returns the lines to add. `peer_lines` are what `peer_lines` made
        of the peer and scheme once per connection."""
        self.id = None
        if head.underscores:
            self._drop_counterfeits(head)
        if head.odd_length:
            return head.plain_length() + self._identity(head, peer_lines, peer, scheme, trusted)
        return self._identity(head, peer_lines, peer, scheme, trusted)

    cdef bytes _identity(self, Head head, bytes peer_lines, bytes peer, bytes scheme, bint trusted):
        cdef int i
        if trusted or self.sends_forwarded:
            return self._extended(head, peer, scheme, trusted)
        for i in range(head.count):
            if X_FORWARDED_FOR <= head.fields[i].name <= FORWARDED:
                head.fields[i].drop = 1
        return self._fresh(head, peer_lines)

    cpdef bytes peer_lines(self, bytes peer, bytes scheme):
        """What every request of an untrusted peer is sent with."""
        if not self.sends_x_forwarded:
            return self.via_line
        return b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\n%b" % (peer, scheme, self.via_line)

    cdef bytes _fresh(self, Head head, bytes peer_lines):
        cdef Py_ssize_t size = PyBytes_GET_SIZE(peer_lines)
        cdef Py_ssize_t host = 0
        cdef bint with_id = PyBytes_GET_SIZE(self.request_id) > 0 and not self._keeps_request_id(head, False)
        cdef bytes result
        cdef char* out
        if self.sends_x_forwarded and head.host >= 0:
            host = head.fields[head.host].value_end - head.fields[head.host].value_start
            size += PyBytes_GET_SIZE(HOST_PREFIX) + host + 2
        if with_id:
            size += PyBytes_GET_SIZE(self.request_id_line) + ID_DIGITS + 2
        result = PyBytes_FromStringAndSize(NULL, size)
        out = put(PyBytes_AS_STRING(result), peer_lines)
        if host:
            out = put(out, HOST_PREFIX)
            memcpy(out, head.base + head.fields[head.host].value_start, host)
            out[host] = c"\r"
            out[host + 1] = c"\n"
            out += host + 2
        if with_id:
            out = put(out, self.request_id_line)
            out = put(out, self._next_id())
            out[0] = c"\r"
            out[1] = c"\n"
        return result

    cdef bytes _extended(self, Head head, bytes peer, bytes scheme, bint trusted):
        """As `_fresh`, with what a trusted proxy said before, or with Forwarded (RFC 7239)."""
        cdef Text text = Text(NULL, 0)
        cdef bint proto = False, host = head.host < 0
        cdef bytes forwarded = NOTHING, id = None, result
        cdef int i
        for i in range(head.count):
            if X_FORWARDED_FOR <= head.fields[i].name <= FORWARDED:
                proto |= trusted and head.fields[i].name == X_FORWARDED_PROTO
                host |= trusted and head.fields[i].name == X_FORWARDED_HOST
                head.fields[i].drop = not trusted or (
                    head.fields[i].name == X_FORWARDED_FOR or head.fields[i].name == FORWARDED)
        if self.sends_forwarded:
            forwarded = self._forwarded(head, peer, scheme, trusted and self.believes_forwarded)
        if PyBytes_GET_SIZE(self.request_id) and not self._keeps_request_id(head, trusted):
            id = self._next_id()
        self._tell(&text, head, peer, None if proto else scheme, not host, trusted, forwarded, id)
        result = PyBytes_FromStringAndSize(NULL, text.n)
        text = Text(PyBytes_AS_STRING(result), 0)
        self._tell(&text, head, peer, None if proto else scheme, not host, trusted, forwarded, id)
        return result

    cdef void _tell(
        self, Text* text, Head head, bytes peer, bytes scheme, bint with_host, bint trusted, bytes forwarded, bytes id
    ) noexcept:
        """The lines of `_extended`: without `scheme`, a host or an id where the proxy has told them."""
        cdef int i
        tell_bytes(text, self.via_line)
        if self.sends_x_forwarded:
            tell_bytes(text, FOR_PREFIX)
            for i in range(head.count):
                if trusted and self.believes_x_forwarded and head.fields[i].name == X_FORWARDED_FOR:
                    tell_value(text, head, i)
                    tell(text, b", ", 2)
            tell_bytes(text, peer)
            if scheme is not None:
                tell_bytes(text, PROTO_PREFIX)
                tell_bytes(text, scheme)
            tell(text, b"\r\n", 2)
            if with_host:
                tell_bytes(text, HOST_PREFIX)
                tell_value(text, head, head.host)
                tell(text, b"\r\n", 2)
        tell_bytes(text, forwarded)
        if id is not None:
            tell_bytes(text, self.request_id_line)
            tell_bytes(text, id)
            tell(text, b"\r\n", 2)

    cdef bytes _forwarded(self, Head head, bytes peer, bytes scheme, bint believed):
        """The line of Forwarded."""
        cdef int i
        elements = []
        for i in range(head.count):
            if believed and head.fields[i].name == FORWARDED:
                elements.append(head.value(i))
        node = b'"[%b]"' % peer if b":" in peer else peer
        element = b"for=%b;proto=%b" % (node, scheme)
        if head.host >= 0:
            element += b';host="%b"' % head.value(head.host)
        return b"Forwarded: %b\r\n" % b", ".join([*elements, element])

    cdef bint _keeps_request_id(self, Head head, bint trusted):
        """A trusted proxy's request id is kept; another one is dropped."""
        cdef int at = head.find(self.request_id)
        cdef bint kept = False
        while at >= 0:
            if trusted and not kept and not head.fields[at].drop:
                kept = True
                self.id = head.value(at)
            else:
                head.fields[at].drop = 1
            at = head.find_next(self.request_id, at)
        return kept

    cdef bytes id_of_refused(self, Head head, bint trusted):
        """What tells a request in the log that goes nowhere; `head` is None when it could not be read."""
        if PyBytes_GET_SIZE(self.request_id) == 0:
            return None
        if head is None or not self._keeps_request_id(head, trusted):
            return self._next_id()
        return self.id

    cdef void _drop_counterfeits(self, Head head):
        cdef int i
        for i in range(head.count):
            if head.fields[i].underscore and not head.fields[i].drop:
                name = head.base[head.fields[i].start : head.fields[i].name_end].lower().replace(b"_", b"-")
                if name in self.own_names:
                    head.fields[i].drop = 1

    cdef bytes _next_id(self):
        """128 bits in hex: unlike before, and telling nothing of how many there were."""
        cdef uint64_t halves[2]
        cdef const uint8_t* random = <const uint8_t*>halves
        cdef char digits[ID_DIGITS]
        cdef int i
        self.seed_low += 0x9E3779B97F4A7C15ULL
        halves[0] = mix(self.seed_high ^ self.seed_low)
        halves[1] = mix(self.seed_low)
        for i in range(ID_DIGITS // 2):
            memcpy(digits + 2 * i, HEX + 2 * random[i], 2)
        self.id = PyBytes_FromStringAndSize(digits, ID_DIGITS)
        return self.id
