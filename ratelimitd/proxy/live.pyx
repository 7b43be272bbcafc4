# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""What all connections of one worker share, and the one place where a reload takes effect.

`Live.policy` is the only thing that a reload replaces, in one assignment: a request takes it once and is
served by it to its end. Everything in a Policy is compiled from one configuration and never changes.
Counters are 64-bit words of the worker's own page; counting is an addition.
"""

from libc.stdint cimport int64_t

from ratelimitd.http.forwarding cimport Forwarding
from ratelimitd.http.head cimport Head
from ratelimitd.http.matching cimport Matcher
from ratelimitd.http.second_reader cimport SecondReader
from ratelimitd.limits.decision cimport Limiter
from ratelimitd.limits.refusals cimport Refusals
from ratelimitd.overload.gate cimport Gate
from ratelimitd.proxy.admission cimport Admission
from ratelimitd.proxy.access_log cimport AccessLog
from ratelimitd.proxy.deadlines cimport Wheel
from ratelimitd.proxy.turns cimport Turns
from ratelimitd.proxy.upstream cimport Upstream


cdef enum:
    MOST_SPARE_HEADS = 64


cdef class Route:
    """`priority` is 0 for critical to 3 for sheddable; `streaming`: answers may idle."""

    def __init__(self, Matcher matcher, Upstream upstream, int priority, bint streaming):
        if not 0 <= priority <= 3:
            raise ValueError(f"there is no priority {priority}")
        self.matcher = matcher
        self.upstream = upstream
        self.priority = priority
        self.streaming = streaming


cdef class Policy:
    """One configuration as the data plane uses it. `identify(peer, values of the believed field)` returns the
    Client, `routes` are tried in order, `log` is None without an access log, and `preambles` says what the
    connections of a listener begin with, where that is not HTTP."""

    def __init__(
        self, config, Limiter limiter, tuple routes, Forwarding forwarding, replies, identify, AccessLog log,
        dict preambles,
    ):
        self.limiter = limiter
        self.routes = routes
        self.forwarding = forwarding
        self.replies = replies
        self.identify = identify
        self.plain_clients = identify.plain if identify.field == b"x-forwarded-for" else None
        self.log = log
        self.preambles = preambles
        if len(routes) == 1 and routes[0].matcher is None:
            self.only_route = routes[0]
        self.needs_text = limiter.needs_text or self.only_route is None
        self.rate_limit_fields = config.headers.rate_limit
        self.head_bound = config.bounds.head
        self.target_bound = config.bounds.target
        self.body_bound = config.bounds.body or (1 << 62)
        self.buffer_bound = config.bounds.buffer
        self.connections_bound = config.bounds.connections
        self.client_connections_bound = config.bounds.connections_per_client
        self.shed_status = config.shedding.status
        self.head_ms = config.timeouts.head_ms
        self.body_ms = config.timeouts.body_ms
        self.idle_ms = config.timeouts.idle_ms
        self.response_ms = config.timeouts.response_ms
        self.tunnel_ms = config.timeouts.tunnel_ms
        self.most_fields = config.bounds.headers
        self.head = Head(self.most_fields)
        self.spare_heads = []

    cdef void keep_head(self):
        """The request that was parsed last waits: the next one is parsed into another head."""
        self.head = self.spare_heads.pop() if self.spare_heads else Head(self.most_fields)

    cdef void release_head(self, Head head):
        """Its request waits no more."""
        if len(self.spare_heads) < MOST_SPARE_HEADS:
            self.spare_heads.append(head)


cdef class Live:
    """The state of a worker. `measures` says which word of `slots` counts what."""

    def __init__(
        self, Wheel wheel, Admission admission, int64_t[::1] slots, measures, Gate gate, Turns turns
    ):
        self.wheel = wheel
        self.turns = turns
        self.admission = admission
        self.inflight = admission.inflight
        self.gate = gate
        self.connections = admission.connections
        self.refusals = Refusals()
        self.second_reader = SecondReader()
        self.slots = &slots[0]
        self.bytes_in_slot = measures.bytes_in
        self.bytes_out_slot = measures.bytes_out
        self.overhead_slot = measures.overhead
        self.refused_total_slot = measures.refused_total
        self.refused_client_slot = measures.refused_client
        self.request_bound_count = len(measures.request_bounds_us)
        self.overhead_bound_count = len(measures.overhead_bounds_us)
        for i, bound in enumerate(measures.request_bounds_us):
            self.request_bounds[i] = bound
        for i, bound in enumerate(measures.overhead_bounds_us):
            self.overhead_bounds[i] = bound

    def swap(self, Policy policy):
        """From now on every new request is served by `policy`."""
        self.policy = policy

    def tick(self, bytes date_line):
        """`date_line` is the Date of replies until the next call."""
        self.date_line = date_line

    def drain(self):
        """No connection is kept for another request any more; those that are idle end now."""
        self.draining = True
        for connection in list(self.connections):
            connection.close_if_idle()

    cdef void observe(self, int slot, int64_t* bounds, int count, int64_t duration_us) noexcept:
        """Counts a duration into the histogram at `slot`: one word per bound, one above them, then the sum."""
        cdef int i = 0
        while i < count and duration_us > bounds[i]:
            i += 1
        self.slots[slot + i] += 1
        self.slots[slot + count + 1] += duration_us


cdef class Listener:
    """One address where clients connect, and the words that count what came in there."""

    def __init__(
        self, Live live, str bind, int outcome_slot, int active_slot, int idle_slot, int tunnel_slot, int failure_slot
    ):
        self.live = live
        self.bind = bind
        self.outcome_slot = outcome_slot
        self.active_slot = active_slot
        self.idle_slot = idle_slot
        self.tunnel_slot = tunnel_slot
        self.failure_slot = failure_slot

    cdef void count_failure(self, HandshakeFailure failure) noexcept:
        """Counts a connection that ends before its first request could be read."""
        self.live.slots[self.failure_slot + failure] += 1
