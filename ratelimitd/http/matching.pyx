# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""Which requests a route or a limit is for: `match` of the configuration, compiled.

`target` has the forms in which paths and hosts are compared; here they are. Every limit with a `match` looks
at every request, so whoever has many of them compares `start` first, which turns most away in one instruction.
A `*` is any rest, and a long path costs no more than its length: what stands between two stars is taken where
it is found first.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcmp, memcpy

from ratelimitd.http.head cimport Head

from os.path import commonprefix

from ratelimitd.http.target import limit_path, normal_host, normal_path

cdef extern from "Python.h":
    const uint8_t* PyUnicode_1BYTE_DATA(str text)
    Py_ssize_t PyUnicode_GET_LENGTH(str text)
    int PyUnicode_KIND(str text)
    const int PyUnicode_1BYTE_KIND

cdef extern from "string.h" nogil:
    void* memmem(const void* haystack, size_t n, const void* needle, size_t needle_n)

# Where `limit_path` may change something, if only at the end.
cdef bint[256] FOLDED
cdef uint8_t _byte
for _byte in b"ABCDEFGHIJKLMNOPQRSTUVWXYZ;":
    FOLDED[_byte] = True


cdef uint64_t first_bytes(const uint8_t* text, Py_ssize_t n) noexcept:
    """The first 8 bytes as one number; zeros stand for those that are not there."""
    cdef uint64_t word = 0
    memcpy(&word, text, min(n, 8))
    return word


cdef class RequestText:
    """One request in comparable form: `path` and `host` are normal ones, in Latin-1; `head` has its fields."""

    def __init__(self, str method, str host, str path, Head head=None):
        if PyUnicode_KIND(host) != PyUnicode_1BYTE_KIND or PyUnicode_KIND(path) != PyUnicode_1BYTE_KIND:
            raise ValueError("hosts and paths stand in Latin-1")
        self.method = method
        self.host = host
        self.path = path
        self.head = head

    @staticmethod
    cdef RequestText of(str method, str host, str path, Head head):
        """The same from texts that were decoded as Latin-1."""
        cdef RequestText text = RequestText.__new__(RequestText)
        text.method = method
        text.host = host
        text.path = path
        text.head = head
        return text

    def header(self, str name):
        """The first value of a field; None without one."""
        cdef int at = -1 if self.head is None else self.head.find(name.lower().encode("latin-1"))
        return None if at < 0 else self.head.value(at).decode("latin-1")

    cdef str limit_path(self):
        """The path as limits compare it; most are that already."""
        cdef const uint8_t* text = PyUnicode_1BYTE_DATA(self.path)
        cdef Py_ssize_t n = PyUnicode_GET_LENGTH(self.path)
        cdef Py_ssize_t i
        if self.folded is None:
            self.folded = self.path
            for i in range(n):
                if FOLDED[text[i]]:
                    self.folded = limit_path(self.path)
                    return self.folded
            if n > 1 and text[n - 1] == c"/":
                self.folded = limit_path(self.path)
        return self.folded

    cdef uint64_t limit_start(self):
        cdef str path = self.limit_path()
        return first_bytes(PyUnicode_1BYTE_DATA(path), PyUnicode_GET_LENGTH(path))


cdef class Pattern:
    """One text with `*` for any rest, in Latin-1."""

    def __init__(self, str text):
        first, *middle = text.split("*")
        *middle, last = middle or [""]
        self.wild = "*" in text
        self.first, self.last = encoded(first), encoded(last)
        self.middle = tuple([encoded(part) for part in middle if part])

    cdef bint matches(self, const uint8_t* text, Py_ssize_t n) noexcept:
        cdef Py_ssize_t first = PyBytes_GET_SIZE(self.first)
        cdef Py_ssize_t last = PyBytes_GET_SIZE(self.last)
        cdef const uint8_t* at = text + first
        cdef const uint8_t* end = text + n - last
        cdef bytes part
        if n < first + last or (not self.wild and n != first):
            return False
        if memcmp(text, PyBytes_AS_STRING(self.first), first) or memcmp(end, PyBytes_AS_STRING(self.last), last):
            return False
        for part in self.middle:
            at = <const uint8_t*>memmem(at, end - at, PyBytes_AS_STRING(part), PyBytes_GET_SIZE(part))
            if at is NULL:
                return False
            at += PyBytes_GET_SIZE(part)
        return True


cdef bytes encoded(str text):
    """As field values and paths come: bytes above 127 stand as Latin-1; what has no such byte, as UTF-8."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode("utf-8")


cdef bint any_matches(tuple patterns, const uint8_t* text, Py_ssize_t n) noexcept:
    for pattern in patterns:
        if (<Pattern>pattern).matches(text, n):
            return True
    return False


cdef class Matcher:
    """A compiled `match` (config.model.Match): all parts that are given must hold, one of the alternatives
    of each."""

    def __init__(self, match, *, bint for_limit):
        self.for_limit = for_limit
        self.methods = frozenset(match.method)
        self.hosts = tuple([Pattern(normal_host(host.encode("latin-1", "replace"))) for host in match.host])
        self.headers = tuple([(name.lower().encode("latin-1"), Pattern(value)) for name, value in match.header])
        paths = [normal_path(path.encode("utf-8")) for path in match.path]
        self.paths = tuple([
            Pattern(text)
            for path in paths
            for text in alternatives(limit_path(path) if for_limit else path)
        ])
        firsts = [(<Pattern>pattern).first for pattern in self.paths]
        start = commonprefix(firsts)[:8] if firsts and for_limit else b""
        self.start = first_bytes(<const uint8_t*>PyBytes_AS_STRING(start), len(start))
        ones = b"\xff" * len(start)
        self.start_mask = first_bytes(<const uint8_t*>PyBytes_AS_STRING(ones), len(ones))

    def __call__(self, RequestText request):
        """Whether it is for this request, asked as limits ask."""
        return not (request.limit_start() ^ self.start) & self.start_mask and self.matches(request)

    cdef bint matches(self, RequestText request) except -1:
        cdef str path
        cdef int at
        cdef Head head = request.head
        if self.methods and request.method not in self.methods:
            return False
        if self.paths:
            path = request.limit_path() if self.for_limit else request.path
            if not any_matches(self.paths, PyUnicode_1BYTE_DATA(path), PyUnicode_GET_LENGTH(path)):
                return False
        if self.hosts and not any_matches(
            self.hosts, PyUnicode_1BYTE_DATA(request.host), PyUnicode_GET_LENGTH(request.host)
        ):
            return False
        for name, pattern in self.headers:
            at = -1 if head is None else head.find(<bytes>name)
            if at < 0 or not (<Pattern>pattern).matches(
                head.base + head.fields[at].value_start, head.fields[at].value_end - head.fields[at].value_start
            ):
                return False
        return True


def alternatives(str path):
    """`/api/*` also matches `/api`."""
    top = path.removesuffix("/*")
    return (top, path) if top and top != path else (path,)
