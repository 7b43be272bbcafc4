# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""The heads of HTTP/1.1 messages: found, checked and cut into the runs that are forwarded.

A head is looked for line by line and parsed once, when it is whole. Whatever RFC 9112 leaves to taste is
refused: bare LF, obs-fold, space before a colon, several or signed lengths, any transfer coding but one
final `chunked`, a missing or second Host. What is accepted is never rebuilt: `render` copies the original
bytes between the fields that must go and adds what the proxy has to say.
The result is this object's own memory, reused by the next parse; `values` has frozen ones.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memchr, memcmp, memcpy

cdef extern from "ratelimitd/http/scan.h":
    uint8_t NAME_BYTE[256]
    uint8_t TARGET_BYTE[256]
    void scan_prepare() noexcept nogil
    size_t scan_name(const uint8_t* p, size_t n, int* underscore) noexcept nogil
    int scan_is_name(const uint8_t* p, const char* lower, size_t n) noexcept nogil
    size_t scan_text(const uint8_t* p, size_t n) noexcept nogil
    int scan_all(const uint8_t* table, const uint8_t* p, size_t n) noexcept nogil
    int scan_utf8_target(const uint8_t* p, size_t n) noexcept nogil
    const char* scan_host_fault(const uint8_t* p, size_t n) noexcept nogil
    Py_ssize_t scan_head_end(const uint8_t* base, size_t length, size_t start, size_t* resume) noexcept nogil

scan_prepare()

# A Connection field that names more is an attack on the time it takes to look them up.
cdef int MOST_CONNECTION_OPTIONS = 32

# Names we know, by length; looked through only where the length fits.
cdef struct Known:
    size_t length
    const char* name
    FieldName field

cdef Known[18] KNOWN = [
    Known(2, b"te", TE), Known(3, b"via", VIA), Known(4, b"host", HOST), Known(6, b"accept", ACCEPT),
    Known(6, b"expect", EXPECT), Known(7, b"upgrade", UPGRADE), Known(9, b"forwarded", FORWARDED),
    Known(9, b"ratelimit", RATELIMIT), Known(10, b"connection", CONNECTION), Known(10, b"keep-alive", KEEP_ALIVE),
    Known(14, b"content-length", CONTENT_LENGTH), Known(14, b"http2-settings", HTTP2_SETTINGS),
    Known(15, b"x-forwarded-for", X_FORWARDED_FOR), Known(16, b"x-forwarded-host", X_FORWARDED_HOST),
    Known(16, b"proxy-connection", PROXY_CONNECTION), Known(16, b"ratelimit-policy", RATELIMIT_POLICY),
    Known(17, b"x-forwarded-proto", X_FORWARDED_PROTO), Known(17, b"transfer-encoding", TRANSFER_ENCODING),
]
# FIRST_KNOWN[n] is where the names of n bytes start in KNOWN.
cdef uint8_t[19] FIRST_KNOWN
for _length in range(19):
    FIRST_KNOWN[_length] = sum(KNOWN[i].length < _length for i in range(18))


cdef FieldName classify(const uint8_t* name, size_t n) noexcept nogil:
    """Which of the names we know this one is."""
    cdef int i
    if n > 17:
        return OTHER
    for i in range(FIRST_KNOWN[n], FIRST_KNOWN[n + 1]):
        if (name[0] | 0x20) == <uint8_t>KNOWN[i].name[0] and scan_is_name(name, KNOWN[i].name, n):
            return KNOWN[i].field
    return OTHER


cdef inline bint same_text(const uint8_t* p, size_t n, const char* lower, size_t most) noexcept nogil:
    """Whether the `n` bytes at `p` are `lower`, in any case."""
    cdef size_t i
    if n != most:
        return False
    for i in range(n):
        if (NAME_BYTE[p[i]] if NAME_BYTE[p[i]] else p[i]) != <uint8_t>lower[i]:
            return False
    return True


cdef class Head:
    def __cinit__(self, int most_fields=100):
        self.capacity = most_fields
        self.fields = <Field*>PyMem_Malloc((most_fields + 1) * sizeof(Field))
        if self.fields is NULL:
            raise MemoryError

    def __dealloc__(self):
        PyMem_Free(self.fields)

    cdef Py_ssize_t find_end(self, bytes data, Py_ssize_t start, size_t* resume) noexcept:
        """The offset behind the empty line of the head at `start`; 0: not there yet; -1: a bare LF."""
        return scan_head_end(<const uint8_t*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), start, resume)

    cdef int _fail(self, int status, const char* fault) noexcept:
        self.fault = fault
        return status

    cdef int parse_request(self, bytes data, Py_ssize_t start, Py_ssize_t end, Py_ssize_t target_bound):
        """Parses the whole head data[start:end]. 0, or the status to answer, with `fault` saying why."""
        cdef const uint8_t* lf
        cdef int status
        self.base = <const uint8_t*>PyBytes_AS_STRING(data)
        self.start, self.end = start, end
        self.target_start = self.target_end = start  # no target, until one was read
        self.status = self.count = 0  # nor a field: those of the head before are offsets into other bytes
        lf = <const uint8_t*>memchr(self.base + start, b"\n", end - start)
        status = self._request_line(lf - self.base - 1, target_bound)
        if status == 0:
            status = self._read_fields(lf - self.base + 1)
        if status == 0:
            status = self._framing(True)
        if status == 0:
            status = self._check_host()
        return status

    cdef int parse_response(self, bytes data, Py_ssize_t start, Py_ssize_t end):
        """Parses the whole head data[start:end] of an answer. 0, or 502, with `fault` saying why."""
        cdef const uint8_t* lf
        cdef int status
        self.base = <const uint8_t*>PyBytes_AS_STRING(data)
        self.start, self.end, self.count = start, end, 0
        lf = <const uint8_t*>memchr(self.base + start, b"\n", end - start)
        status = self._status_line(lf - self.base - 1)
        if status == 0:
            status = self._read_fields(lf - self.base + 1)
        if status == 0:
            status = self._framing(False)
        return 0 if status == 0 else 502

    cdef int _request_line(self, Py_ssize_t line_end, Py_ssize_t target_bound) noexcept:
        """method SP request-target SP HTTP-version (RFC 9112, 3), with exactly these two spaces."""
        cdef const uint8_t* base = self.base
        cdef Py_ssize_t at = self.start
        while at < line_end and NAME_BYTE[base[at]]:
            at += 1
        self.method_end = at
        if at == self.start or at == line_end or base[at] != c" " or not c"a" <= (base[self.start] | 0x20) <= c"z":
            return self._fail(400, b"the request line must start with a method and one space")
        self.is_head = at - self.start == 4 and memcmp(base + self.start, b"HEAD", 4) == 0
        self.target_start = at + 1
        at = line_end
        while at > self.target_start and base[at - 1] != c" ":
            at -= 1
        self.target_end = at - 1
        if self.target_end <= self.target_start:
            return self._fail(400, b"the request line must be: method, target, HTTP version")
        if self.target_end - self.target_start > target_bound:
            return self._fail(414, b"the request target is longer than bounds.target")
        self.raw_target = not scan_all(TARGET_BYTE, base + self.target_start, self.target_end - self.target_start)
        if self.raw_target and not scan_utf8_target(base + self.target_start, self.target_end - self.target_start):
            return self._fail(400, b"the request target holds a space, a `#`, a control or bytes that are no UTF-8")
        if line_end - at != 8 or memcmp(base + at, b"HTTP/", 5) != 0 or base[at + 6] != c".":
            return self._fail(400, b"the request line must end in HTTP/1.1 or HTTP/1.0")
        if not (c"0" <= base[at + 5] <= c"9" and c"0" <= base[at + 7] <= c"9"):
            return self._fail(400, b"the HTTP version must be two digits")
        if base[at + 5] != c"1":
            return self._fail(505, b"only HTTP/1.1 and HTTP/1.0 are spoken here")
        if base[at + 7] > c"1":
            return self._fail(400, b"the HTTP version must be 1.1 or 1.0")
        self.minor = base[at + 7] - c"0"
        return self._check_target()

    cdef int _check_target(self) noexcept:
        """origin-form, `*` for OPTIONS, or absolute-form of http (RFC 9112, 3.2)."""
        cdef const uint8_t* target = self.base + self.target_start
        cdef Py_ssize_t n = self.target_end - self.target_start
        cdef Py_ssize_t method = self.method_end - self.start
        if target[0] == c"/":
            return 0
        if method == 7 and memcmp(self.base + self.start, b"CONNECT", 7) == 0:
            return 0
        if n == 1 and target[0] == c"*":
            if method == 7 and memcmp(self.base + self.start, b"OPTIONS", 7) == 0:
                return 0
            return self._fail(400, b"only OPTIONS may ask for `*`")
        if n > 7 and same_text(target, 7, b"http://", 7):
            return 0
        if n > 8 and same_text(target, 8, b"https://", 8):
            return 0
        return self._fail(400, b"the request target must start with `/` or http://")

    cdef int _status_line(self, Py_ssize_t line_end) noexcept:
        """HTTP-version SP 3DIGIT SP [ reason-phrase ] (RFC 9112, 4); the last space may be missing."""
        cdef const uint8_t* line = self.base + self.start
        cdef Py_ssize_t n = line_end - self.start
        if n < 12 or memcmp(line, b"HTTP/1.", 7) != 0 or not (line[7] == c"1" or line[7] == c"0"):
            return self._fail(502, b"the answer does not start with HTTP/1.1 or HTTP/1.0")
        if line[8] != c" " or (n > 12 and line[12] != c" "):
            return self._fail(502, b"the status line is malformed")
        for i in range(9, 12):
            if not c"0" <= line[i] <= c"9":
                return self._fail(502, b"the status is no number of three digits")
        if scan_text(line + 12, n - 12) != <size_t>(n - 12):
            return self._fail(502, b"the reason phrase holds a control character")
        self.minor = line[7] - c"0"
        self.status = (line[9] - c"0") * 100 + (line[10] - c"0") * 10 + line[11] - c"0"
        if self.status < 100 or self.status > 599:
            return self._fail(502, b"the status is not between 100 and 599")
        return 0

    cdef int _read_fields(self, Py_ssize_t at) noexcept:
        """field-name ":" OWS field-value OWS CRLF, until the empty line (RFC 9112, 5)."""
        cdef const uint8_t* base = self.base
        cdef Py_ssize_t last = self.end - 2
        cdef Py_ssize_t line_end
        cdef Field* field
        cdef size_t length
        cdef int underscore
        self.fields_start = at
        self.count = 0
        self.underscores = False
        while at < last:
            if self.count == self.capacity:
                return self._fail(431, b"more fields than bounds.headers")
            length = scan_name(base + at, last - at, &underscore)
            if length == 0 or base[at + length] != c":":
                return self._fail(400, b"a field must be a name, a colon and a value, in one line")
            field = &self.fields[self.count]
            field.start = at
            field.name_end = at + length
            field.name = classify(base + at, length)
            if underscore and field.name != OTHER:
                field.name = ALIAS
            field.drop = 0
            field.underscore = underscore
            self.underscores |= underscore
            at += length + 1
            while base[at] == c" " or base[at] == c"\t":
                at += 1
            line_end = at + scan_text(base + at, last - at)
            while base[line_end] != c"\r":
                # Controls in an answer harm only who shows them (RFC 9110, 5.5): they pass as they came.
                if self.status == 0 or base[line_end] == 0 or base[line_end] == c"\n":
                    return self._fail(400, b"a field value holds a control character")
                line_end += 1 + scan_text(base + line_end + 1, last - line_end - 1)
            if base[line_end + 1] != c"\n":
                return self._fail(400, b"a field value holds a bare CR")
            field.value_start = at
            at = line_end + 2
            while line_end > <Py_ssize_t>field.value_start and (
                base[line_end - 1] == c" " or base[line_end - 1] == c"\t"
            ):
                line_end -= 1
            field.value_end = line_end
            self.count += 1
        self.fields[self.count].start = at
        return 0

    cdef int _framing(self, bint is_request) noexcept:
        """Body length and persistence (RFC 9112, 6.3 and 9.3); marks what belongs to this connection only."""
        cdef Field* field
        cdef int i, status = 0
        self.content_length = -1
        self.chunked = self.expects_continue = self.upgrades = self.has_te = self.odd_length = False
        self.keep_alive = self.minor == 1
        self.closes = False
        self.host = -1
        for i in range(self.count):
            field = &self.fields[i]
            if field.name == OTHER:
                continue
            if field.name == HOST:
                if self.host >= 0:
                    return self._fail(400, b"more than one Host field")
                self.host = i
            elif field.name == CONTENT_LENGTH:
                status = self._content_length(field)
            elif field.name == TRANSFER_ENCODING:
                if self.chunked or not same_text(
                    self.base + field.value_start, field.value_end - field.value_start, b"chunked", 7
                ):
                    return self._fail(400, b"the transfer coding must be one single `chunked`")
                self.chunked = True
            elif field.name == CONNECTION:
                field.drop = 1
                status = self._connection(field, is_request)
            elif KEEP_ALIVE <= field.name <= HTTP2_SETTINGS:
                field.drop = 1
                self.has_te |= field.name == TE
            elif field.name == EXPECT and self.minor == 0:
                field.drop = 1  # to be ignored (RFC 9110, 10.1.1)
            elif field.name == EXPECT:
                self.expects_continue = True  # whatever it is, the server must see it before the body
            elif field.name == ALIAS and is_request:
                field.drop = 1
            if status:
                return status
        if self.closes:
            self.keep_alive = False
        if self.chunked and self.content_length >= 0:
            return self._fail(400, b"both Content-Length and Transfer-Encoding")
        if self.chunked and self.minor == 0:
            return self._fail(400, b"Transfer-Encoding in HTTP/1.0")
        return 0

    cdef int _content_length(self, Field* field) noexcept:
        """1*DIGIT, once (RFC 9112, 6.3; a list of equal lengths is refused too)."""
        cdef const uint8_t* digit = self.base + field.value_start
        cdef Py_ssize_t n = field.value_end - field.value_start
        cdef int64_t length = 0
        if self.content_length >= 0:
            return self._fail(400, b"more than one Content-Length field")
        if n == 0 or n > 18:
            return self._fail(400, b"the Content-Length is empty or has more than 18 digits")
        for i in range(n):
            if not c"0" <= digit[i] <= c"9":
                return self._fail(400, b"the Content-Length is no decimal number")
            length = length * 10 + digit[i] - c"0"
        self.content_length = length
        self.odd_length = (
            (digit[0] == c"0" and n > 1)
            or field.value_start != field.name_end + 2
            or self.base[field.name_end + 1] != c" "
            or self.base[field.value_end] != c"\r"
        )
        return 0

    cdef bytes plain_length(self):
        """The length in the spelling that nobody misreads; the one that came is dropped. Servers differ on tabs,
        on leading zeros, and on white space behind a value."""
        self.drop_all(CONTENT_LENGTH)
        return b"Content-Length: %d\r\n" % self.content_length

    cdef int _connection(self, Field* field, bint is_request) noexcept:
        """The options of a Connection field (RFC 9110, 7.6.1). A field that it names is not forwarded, but
        framing and the client's identity cannot be named away."""
        cdef const uint8_t* base = self.base
        cdef uint32_t at = field.value_start
        cdef uint32_t token, end
        cdef Field* named
        cdef int options = 0
        while at < field.value_end:
            while at < field.value_end and (base[at] == c" " or base[at] == c"\t" or base[at] == c","):
                at += 1
            token = at
            while at < field.value_end and NAME_BYTE[base[at]]:
                at += 1
            if at == token == field.value_end:
                break
            end = at
            while at < field.value_end and (base[at] == c" " or base[at] == c"\t"):
                at += 1
            options += 1
            if end == token or options > MOST_CONNECTION_OPTIONS or (at < field.value_end and base[at] != c","):
                if is_request:
                    return self._fail(400, b"the Connection field is malformed or names too many fields")
                self.closes = True  # whatever the server wants of this connection, it is not used again
                break
            if same_text(base + token, end - token, b"close", 5):
                self.closes = True
            elif same_text(base + token, end - token, b"keep-alive", 10):
                if self.minor == 0:
                    self.keep_alive = True
            elif same_text(base + token, end - token, b"upgrade", 7):
                self.upgrades = self.minor == 1
            else:
                for i in range(self.count):
                    named = &self.fields[i]
                    if named.name == OTHER or named.name >= ACCEPT:
                        if named.name_end - named.start == end - token:
                            if equal_names(base + named.start, base + token, end - token):
                                named.drop = 1
        return 0

    cdef int _check_host(self) noexcept:
        """Exactly one Host, host [":" port], in HTTP/1.1 (RFC 9112, 3.2)."""
        cdef const char* fault
        if self.host < 0:
            return self._fail(400, b"no Host field") if self.minor == 1 else 0
        fault = scan_host_fault(
            self.base + self.fields[self.host].value_start,
            self.fields[self.host].value_end - self.fields[self.host].value_start,
        )
        return 0 if fault is NULL else self._fail(400, fault)

    cdef int find(self, bytes name) noexcept:
        """The index of the first field of that name (given in lower case); -1: none."""
        return self.find_next(name, -1)

    cdef int find_next(self, bytes name, int after) noexcept:
        """The index of the next field of that name behind index `after`; -1: none."""
        cdef const char* lower = PyBytes_AS_STRING(name)
        cdef uint32_t n = PyBytes_GET_SIZE(name)
        cdef Field* field
        cdef int i
        for i in range(after + 1, self.count):
            field = &self.fields[i]
            if field.name_end - field.start == n and same_text(self.base + field.start, n, lower, n):
                return i
        return -1

    cdef void drop_all(self, FieldName name) noexcept:
        """No field of that name is forwarded."""
        cdef int i
        for i in range(self.count):
            if self.fields[i].name == name:
                self.fields[i].drop = 1

    cdef bytes value(self, int index):
        cdef Field* field = &self.fields[index]
        return PyBytes_FromStringAndSize(<const char*>self.base + field.value_start, field.value_end - field.value_start)

    cdef bytes method(self):
        return PyBytes_FromStringAndSize(<const char*>self.base + self.start, self.method_end - self.start)

    cdef bytes target(self):
        return PyBytes_FromStringAndSize(<const char*>self.base + self.target_start, self.target_end - self.target_start)

    cdef bytes render(self, bytes first_line, bytes added, Py_ssize_t body_end):
        """The head as it is forwarded: `first_line` (None: the one that came, as HTTP/1.1 for an answer), the
        fields that are not dropped, `added` (whole lines), the empty line; then data[end:body_end]."""
        cdef Py_ssize_t line = self.fields_start - self.start if first_line is None else PyBytes_GET_SIZE(first_line)
        cdef Py_ssize_t size = line + PyBytes_GET_SIZE(added) + 2 + body_end - self.end
        cdef Py_ssize_t run, n
        cdef bytes result
        cdef char* out
        cdef int i
        for i in range(self.count):
            if not self.fields[i].drop:
                size += self.fields[i + 1].start - self.fields[i].start
        result = PyBytes_FromStringAndSize(NULL, size)
        out = PyBytes_AS_STRING(result)
        memcpy(out, self.base + self.start if first_line is None else <const uint8_t*>PyBytes_AS_STRING(first_line), line)
        if self.status and first_line is None:
            out[7] = c"1"
        out += line
        i = 0
        while i < self.count:
            if self.fields[i].drop:
                i += 1
                continue
            run = self.fields[i].start
            while i < self.count and not self.fields[i].drop:
                i += 1
            n = self.fields[i].start - run
            memcpy(out, self.base + run, n)
            out += n
        n = PyBytes_GET_SIZE(added)
        memcpy(out, PyBytes_AS_STRING(added), n)
        out += n
        out[0] = c"\r"
        out[1] = c"\n"
        memcpy(out + 2, self.base + self.end, body_end - self.end)
        return result


cdef inline bint equal_names(const uint8_t* a, const uint8_t* b, size_t n) noexcept nogil:
    cdef size_t i
    for i in range(n):
        if NAME_BYTE[a[i]] != NAME_BYTE[b[i]]:
            return False
    return True
