"""What a request is to be charged to; `charges.pyx` says how it is found."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from ratelimitd.http.head cimport Head
from ratelimitd.http.matching cimport RequestText
from ratelimitd.limits.table cimport Charge

cdef enum:
    MOST_CHARGES = 16
    MOST_HELD = 8

    CLIENT = 99  # c
    GLOBAL = 103  # g

    SKIPPED = 0
    KEYED = 1
    DENIED = 3
    TWICE = 4


cdef struct Group:  # the rates of a limit, or of one of its overrides
    int first
    int count


cdef class Client:
    """Who asks: the address for logs, what stands for it in keys, and the keys already made of that."""

    cdef:
        readonly str address
        readonly bytes key_bytes
        readonly bint allowed  # never limited
        readonly bint denied
        uint64_t generation  # of the limits that the next two belong to; 0: none yet
        uint64_t* keys
        Group* groups  # of each limit, behind the keys


cdef struct LimitState:
    Group base
    int key_at  # where a client's keys of this limit start; the last one is that of its places
    int key_count
    uint8_t kind
    uint8_t missing
    uint8_t observe
    uint8_t on_failure
    uint8_t has_matcher
    uint64_t start  # of the paths that it is for
    uint64_t start_mask
    uint8_t has_overrides
    uint8_t has_cost_header
    uint32_t most_cost
    uint64_t concurrent
    uint64_t concurrent_salt
    uint64_t ban_salt
    uint8_t has_ban
    Charge ban_charge
    uint64_t ban_us
    int allowed_slot
    int limited_slot
    int observed_slot
    int fallback_slot  # decisions while the store was away


cdef struct Applied:  # a limit that applies to the request in work
    int limit
    int first  # of its charges
    int count
    uint8_t over  # a limit of places: full, and only observed


cdef class Found:
    """What limits have to do with a request, kept while it waits."""

    cdef:
        Charge* charges  # and, behind them, the next two
        Applied* applied
        int* rate_of
        int charged
        int applied_count
        uint64_t places[8]
        int place_count


cdef class Charges:
    cdef:
        uint64_t k0
        uint64_t k1
        uint64_t generation
        readonly bint needs_text
        int limit_count
        int group_count
        int rate_count
        int key_capacity
        LimitState* limits
        Group* group
        Charge* templates
        uint64_t* salts  # of each rate's keys
        uint64_t* global_keys
        tuple compiled
        list matchers  # None in it: a limit of every request
        readonly tuple names
        list headers
        list cost_headers
        list overrides  # per limit: value -> group
        list policy_lines
        list prefixes
        list suffixes
        # of the request in work
        Charge charges[16]
        int rate_of[16]
        Applied* applied
        int applied_count
        int charged
        uint64_t places[8]  # that it needs under limits of concurrency
        int place_count
        uint64_t held[8]  # of those: what it has got
        int held_count
        int deciding  # limit that refused; -1: none

    cdef Found keep(self)
    cdef void recall(self, Found found) noexcept
    cdef int collect(self, Head head, Client client, RequestText text, bint trusted) except -1
    cdef int _collect_limit(self, int limit, Head head, Client client, RequestText text, bint trusted) except -1
    cdef int _charge(self, int limit, Group group, uint64_t* keys, uint32_t cost) except -1
    cdef int _header_tail(self, Head head, int limit, const uint8_t** value, Py_ssize_t* n)
    cdef uint32_t _cost(self, Head head, int limit)
    cdef int _take_client(self, Client client) except -1
    cdef Group _group_of_client(self, int limit, Client client)
    cdef void _make_keys(
        self, int limit, Group group, uint8_t kind, const uint8_t* value, Py_ssize_t n, uint64_t* keys
    ) noexcept
    cdef Group _add_group(self, limit, tuple rules)
    cdef Group _group_of(self, int limit, uint8_t kind, const uint8_t* value, Py_ssize_t n)
    cdef uint64_t hash(self, uint64_t salt, uint8_t kind, const uint8_t* value, Py_ssize_t n) noexcept
