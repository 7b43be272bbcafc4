"""The decision about one request; `decision.pyx` says how it is taken."""

from libc.stdint cimport int64_t, uint8_t, uint64_t

from ratelimitd.http.head cimport Head
from ratelimitd.limits.table cimport Charge, Decided, Table, Verdict

cdef enum:
    MOST_RULES = 16


cdef enum Decision:
    ADMIT
    LIMIT  # over a limit: 429
    BUSY  # the count is behind a lock that is not free: 503
    DENY  # a value that a limit insists on is missing: 403
    AMBIGUOUS  # a field that is a key occurs twice: 400
    AGAIN  # the clock was read too long ago: read it, then `decide_again`


cdef class Client:
    """Who asks: the address for logs, what stands for it in keys, and the keys already made of that."""

    cdef:
        readonly str address
        readonly bytes key_bytes
        readonly bint allowed  # never limited
        readonly bint denied
        uint64_t generation  # of the rules that `keys` belongs to; 0: none yet
        uint64_t keys[16]


cdef struct Source:
    uint8_t kind
    uint8_t missing
    uint8_t observe
    uint8_t open_on_failure
    uint8_t has_matcher
    int position
    int64_t quota
    uint64_t global_key
    int allowed_slot
    int limited_slot
    int observed_slot


cdef class Limiter:
    cdef:
        Table table
        int64_t* slots
        uint64_t k0
        uint64_t k1
        uint64_t generation
        int count
        Source sources[16]
        Charge templates[16]
        tuple rules
        list headers
        list policy_lines
        list prefixes
        list suffixes
        # the decision that was taken last
        Charge charges[16]
        int rule_of[16]
        int charged
        Decided decided
        int deciding  # rule that refused; -1: none
        int tightest  # rule of which the smallest share is left; -1: none
        int64_t left  # of the tightest
        readonly bint needs_text

    cdef Decision decide(self, Head head, Client client, object text, uint64_t now_us)
    cdef Decision decide_again(self, uint64_t now_us)
    cdef int _collect(self, Head head, Client client, object text) except -1
    cdef int _header_key(self, Head head, Client client, int rule, uint64_t* key) except -1
    cdef void _keys_of(self, Client client)
    cdef uint64_t _hash(self, int rule, uint8_t kind, const uint8_t* value, Py_ssize_t n) noexcept
    cdef Decision _conclude(self, Verdict verdict) noexcept
    cdef void _count_admitted(self) noexcept
    cdef bytes admitted_lines(self)
    cdef bytes refused_lines(self)
    cdef int64_t retry_after(self) noexcept
