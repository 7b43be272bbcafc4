# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""What a request asks for, and what its fields say of the answer: questions to a head that was parsed.

The target in origin-form whatever form it came in, the values in which routes and limits compare it, what is
accepted and believed. Nothing here changes the head.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t
from libc.string cimport memchr

from ratelimitd.http.head cimport RATELIMIT, RATELIMIT_POLICY, Head
from ratelimitd.http.matching cimport RequestText

import re

from ratelimitd.errors import ClientFault
from ratelimitd.http.replies import wants_text
from ratelimitd.http.target import normal_host, normal_path

cdef object RAW = re.compile(rb"[\x80-\xff]")


cdef extern from "Python.h":
    str PyUnicode_DecodeLatin1(const char* text, Py_ssize_t n, const char* errors)

cdef extern from "string.h" nogil:
    void* memmem(const void* haystack, size_t n, const void* needle, size_t needle_n)


cdef bint tells_rate_limit(Head head) noexcept:
    """Whether the upstream has its own RateLimit fields: those are left alone."""
    cdef int i
    for i in range(head.count):
        if head.fields[i].name == RATELIMIT or head.fields[i].name == RATELIMIT_POLICY:
            return True
    return False


cdef bint takes_trailers(Head head):
    """Whether the client reads trailers of an answer (RFC 9110, 10.1.4)."""
    cdef int at = head.find(b"te") if head.has_te and head.minor == 1 else -1
    while at >= 0:
        if b"trailers" in [coding.strip(b" \t") for coding in head.value(at).lower().split(b",")]:
            return True
        at = head.find_next(b"te", at)
    return False


cdef bint accepts_text(Head head):
    cdef int at = head.find(b"accept")
    return at >= 0 and wants_text(head.value(at))


cdef bint needs_care(Head head) noexcept:
    """Whether the target is in absolute-form, or its path has more than one spelling."""
    cdef const uint8_t* target = head.base + head.target_start
    cdef Py_ssize_t n = head.target_end - head.target_start
    cdef Py_ssize_t i
    if target[0] != c"/":
        return True
    for i in range(n):
        if target[i] == c"?":
            return False
        if target[i] == c"%" or target[i] == c"\\" or (target[i] == c"." and target[i - 1] == c"/"):
            return True
    return False


def read_request(bytes data, Py_ssize_t most_fields, Py_ssize_t head_bound, Py_ssize_t target_bound):
    """The one head in `data`, and what it asks for; ClientFault where a client would be refused for it. For
    those who explain: a Head is good for as long as `data` lives."""
    cdef Head head = Head(most_fields)
    cdef size_t resume = 0
    cdef Py_ssize_t end = head.find_end(data, 0, &resume)
    cdef int status
    if end < 0:
        raise ClientFault(400, "a line ends in a bare LF")
    if end == 0 or end > head_bound:
        raise ClientFault(431, "the head is larger than bounds.head")
    status = head.parse_request(data, 0, end, target_bound)
    if status:
        raise ClientFault(status, head.fault.decode())
    return head, request_text(head, head.method())


cdef bytes origin_target(Head head):
    """The target in origin-form. Raises ClientFault where an absolute one names another host than Host."""
    target = encoded_target(head)
    if target.startswith(b"/") or target == b"*":
        return target
    authority, slash, path = target.partition(b"://")[2].partition(b"/")
    authority, question, query = authority.partition(b"?")
    if b"@" in authority:
        raise ClientFault(400, "the request target holds userinfo")
    if head.host < 0 or authority.lower() != head.value(head.host).lower():
        raise ClientFault(400, "the request target and the Host field name different hosts")
    if not slash and not question and head.method() == b"OPTIONS":
        return b"*"  # RFC 9112, 3.2.4
    return b"/" + (question + query if question else path) if not (question and slash) else (
        b"/" + question + query + slash + path
    )


cdef bytes encoded_target(Head head):
    """The target as it came, but for raw UTF-8, which is percent-encoded (RFC 3987, 3.1): the same path to
    whoever decodes it, and no bytes that other parsers refuse."""
    return RAW.sub(lambda found: b"%%%02X" % found[0][0], head.target()) if head.raw_target else head.target()


cdef bytes encoded_line(Head head):
    """The request line as it came, but for raw UTF-8 in the target."""
    return b"%b %b HTTP/1.%d\r\n" % (head.method(), encoded_target(head), head.minor)


cdef bytes origin_line(Head head):
    """The request line as it is forwarded; None: as it came."""
    if head.minor == 1 and head.base[head.target_start] == c"/" and not head.raw_target:
        return None
    return b"%b %b HTTP/1.1\r\n" % (head.method(), origin_target(head))


cdef RequestText request_text(Head head, bytes method):
    cdef const char* target = <const char*>head.base + head.target_start
    cdef const char* host
    cdef str normal
    if is_normal(head):
        normal = PyUnicode_DecodeLatin1(target, path_size(head), NULL)
    else:
        whole = origin_target(head)
        normal = normal_path(whole) if whole.startswith(b"/") else "*"
    return RequestText.of(
        PyUnicode_DecodeLatin1(PyBytes_AS_STRING(method), PyBytes_GET_SIZE(method), NULL),
        request_host(head), normal, head,
    )


cdef Py_ssize_t path_size(Head head) noexcept:
    """How long an origin-form target is up to its query."""
    cdef Py_ssize_t n = head.target_end - head.target_start
    cdef const void* query = memchr(head.base + head.target_start, c"?", n)
    return n if query is NULL else <const uint8_t*>query - (head.base + head.target_start)


cdef bint is_normal(Head head) noexcept:
    """Whether the path of the target is one that `normal_path` would leave as it is."""
    return not needs_care(head) and memmem(head.base + head.target_start, path_size(head), b"//", 2) is NULL


cdef str request_host(Head head):
    """The Host as it is compared: most are that already, but for a port."""
    cdef const uint8_t* text
    cdef Py_ssize_t n, i
    if head.host < 0:
        return ""
    text = head.base + head.fields[head.host].value_start
    n = head.fields[head.host].value_end - head.fields[head.host].value_start
    for i in range(n):
        if c"A" <= text[i] <= c"Z" or text[i] == c"[" or (text[i] == c"." and (i + 1 == n or text[i + 1] == c":")):
            return normal_host(head.value(head.host))
        if text[i] == c":":
            n = i
            break
    return PyUnicode_DecodeLatin1(<const char*>text, n, NULL)


cpdef bytes believed_values(Head head, bytes name):
    """All values of the believed field, joined as one list; None without any."""
    cdef int at, after
    cdef list values
    if name is None:
        return None
    at = head.find(name)
    if at < 0:
        return None
    after = head.find_next(name, at)
    if after < 0:
        return head.value(at)
    values = [head.value(at)]
    while after >= 0:
        values.append(head.value(after))
        after = head.find_next(name, after)
    return b",".join(values)
