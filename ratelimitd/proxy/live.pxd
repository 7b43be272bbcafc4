"""What all connections of a worker share; `live.pyx` says what may change in it."""

from libc.stdint cimport int64_t, uint64_t

from ratelimitd.fleet.leases cimport Leases
from ratelimitd.http.forwarding cimport Forwarding
from ratelimitd.http.head cimport Head
from ratelimitd.http.matching cimport Matcher
from ratelimitd.http.second_reader cimport SecondReader
from ratelimitd.limits.charges cimport Client
from ratelimitd.limits.decision cimport Limiter
from ratelimitd.limits.inflight cimport InFlight
from ratelimitd.limits.plain_clients cimport PlainClients
from ratelimitd.limits.refusals cimport Refusals
from ratelimitd.overload.gate cimport Gate
from ratelimitd.proxy.admission cimport Admission
from ratelimitd.proxy.access_log cimport AccessLog
from ratelimitd.proxy.deadlines cimport Wheel
from ratelimitd.proxy.turns cimport Turns
from ratelimitd.proxy.upstream cimport Upstream


cdef enum Outcome:
    FORWARDED = 0
    LIMITED
    SHED
    DENIED
    MALFORMED
    TIMEOUT
    UPSTREAM_ERROR
    CLIENT_GONE


cdef enum HandshakeFailure:
    UNTRUSTED = 0  # it brings a PROXY header and is no trusted proxy
    NO_HEADER
    NO_TLS
    SLOW


cdef class Route:
    cdef:
        readonly Matcher matcher  # None: every request
        readonly Upstream upstream
        readonly int priority
        readonly bint streaming


cdef class Policy:
    cdef:
        readonly Limiter limiter
        readonly tuple routes
        Route only_route  # set when there is nothing to choose
        Forwarding forwarding
        readonly object replies
        readonly object identify
        PlainClients plain_clients  # None: another field is believed than X-Forwarded-For, or none
        readonly AccessLog log  # None: no access log
        readonly dict preambles  # by `bind`: what the connections of a listener begin with
        bint needs_text
        bint rate_limit_fields
        Py_ssize_t head_bound
        Py_ssize_t target_bound
        int64_t body_bound
        int64_t buffer_bound
        int connections_bound
        int client_connections_bound
        int shed_status
        uint64_t head_ms
        uint64_t body_ms
        uint64_t idle_ms
        uint64_t response_ms
        uint64_t tunnel_ms
        Head head  # of requests; shared, since most are used up before the next is parsed
        list spare_heads
        int most_fields

    cdef void keep_head(self)
    cdef void release_head(self, Head head)


cdef class Live:
    cdef:
        readonly Policy policy
        readonly Wheel wheel
        Gate gate
        readonly set connections
        readonly bint draining
        SecondReader second_reader
        InFlight inflight
        Admission admission
        Turns turns
        readonly Refusals refusals
        public Leases leases  # None: no store is asked
        int64_t* slots
        bytes date_line
        int bytes_in_slot
        int bytes_out_slot
        int overhead_slot
        int refused_total_slot
        int refused_client_slot
        int64_t request_bounds[32]
        int64_t overhead_bounds[32]
        int request_bound_count
        int overhead_bound_count

    cdef void observe(self, int slot, int64_t* bounds, int count, int64_t duration_us) noexcept


cdef class Listener:
    cdef:
        readonly Live live
        readonly str bind
        int outcome_slot  # of the first outcome; the others follow
        int active_slot
        int idle_slot
        int failure_slot  # of the first HandshakeFailure; the others follow
        int tunnel_slot

    cdef void count_failure(self, HandshakeFailure failure) noexcept
