# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""What the access log tells of a request: noted while it is in work, and written as one line when it ends.

Of the client's head no more is made than a reference to the bytes that came, until the line is written; where no
log is written not even that.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t

from ratelimitd.http.head cimport Head
from ratelimitd.proxy.access_log cimport LINE_OUTCOME, AccessLine, AccessLog, Kept, tell_bytes, tell_own, tell_sent
from ratelimitd.proxy.clock cimport wall_us
from ratelimitd.proxy.live cimport CLIENT_GONE, FORWARDED, Outcome
from ratelimitd.proxy.upstream cimport Downstream

from ratelimitd.segment import series as _series

cdef enum:
    MOST_KEPT_WHOLE = 16384  # a buffer with more holds a body too, and is not kept for its head's sake

cdef tuple OUTCOMES = tuple([outcome.encode().ljust(LINE_OUTCOME) for outcome in _series.OUTCOMES])
cdef const char* OUTCOME_NAMES[8]
cdef int[8] OUTCOME_SIZES
cdef Kept NOTHING_KEPT  # all zero
cdef int outcome_index
for outcome_index in range(8):
    OUTCOME_NAMES[outcome_index] = PyBytes_AS_STRING(OUTCOMES[outcome_index])
    OUTCOME_SIZES[outcome_index] = len(_series.OUTCOMES[outcome_index])


cdef class Logged(Downstream):
    """A client's connection, seen from the log."""

    cdef void keep_head(self, Head head, bytes data):
        """Keeps what the line will need of the head, which is in `data`: all of that, while it is little."""
        cdef Py_ssize_t shift = 0
        cdef int at
        if PyBytes_GET_SIZE(data) <= MOST_KEPT_WHOLE:
            self.kept_head = data
        else:
            self.kept_head = data[head.start : head.end]
            shift = head.start
        self.kept.method = head.start - shift
        self.kept.method_end = head.method_end - shift
        self.kept.target = head.target_start - shift
        self.kept.target_end = head.target_end - shift
        self.kept.referer = self.kept.referer_end = self.kept.agent = self.kept.agent_end = 0
        if self.policy.log.combined:
            at = head.find(b"referer")
            if at >= 0:
                self.kept.referer = head.fields[at].value_start - shift
                self.kept.referer_end = head.fields[at].value_end - shift
            at = head.find(b"user-agent")
            if at >= 0:
                self.kept.agent = head.fields[at].value_start - shift
                self.kept.agent_end = head.fields[at].value_end - shift

    cdef void log(self, Outcome outcome, uint64_t now_us):
        """Writes the line of the request that ends now, and lets go of what was kept for it."""
        cdef AccessLog log = self.policy.log
        cdef AccessLine line
        if outcome != FORWARDED or not log.skips():
            line.duration_us = now_us - self.started_us
            line.began_us = wall_us() - line.duration_us
            line.decided_us = (self.decided_us or now_us) + log.wall_offset_us
            line.status = 499 if outcome == CLIENT_GONE else self.status
            line.outcome = OUTCOME_NAMES[<int>outcome]
            line.outcome_n = OUTCOME_SIZES[<int>outcome]
            self._describe(&line)
            log.add(&line)
        self.kept_head = self.request_id = self.address = self.limit = None

    cdef void _describe(self, AccessLine* line):
        cdef const char* head
        cdef str address = self.address
        if address is None:
            address = self.address = self.policy.identify.client(self.peer).address
        tell_own(&line.client, address)
        tell_own(&line.limit, self.limit)
        tell_own(&line.upstream, None if self.route is None else self.route.upstream.name)
        tell_own(&line.server, None if self.server is None else self.server.url)
        tell_bytes(&line.request_id, self.request_id)
        line.minor = self.minor
        line.bytes_in = self.bytes_in
        line.bytes_out = self.bytes_out
        line.body_out = self.bytes_out - self.heads_out
        head = PyBytes_AS_STRING(self.kept_head) if self.kept_head is not None else NULL
        if head is NULL:
            self.kept = NOTHING_KEPT
        tell_sent(&line.method, head, self.kept.method, self.kept.method_end)
        tell_sent(&line.target, head, self.kept.target, self.kept.target_end)
        tell_sent(&line.referer, head, self.kept.referer, self.kept.referer_end)
        tell_sent(&line.agent, head, self.kept.agent, self.kept.agent_end)
