"""What is known of a request when its line is written; `logged.pyx` says what it promises."""

from libc.stdint cimport int64_t, uint64_t

from ratelimitd.http.head cimport Head
from ratelimitd.proxy.access_log cimport AccessLine, Kept
from ratelimitd.proxy.live cimport Listener, Live, Outcome, Policy, Route
from ratelimitd.proxy.upstream cimport Downstream


cdef class Logged(Downstream):
    cdef:
        Listener listener
        Live live
        str peer
        # of the request in work
        Policy policy
        Route route
        uint64_t started_us
        # set only where a log is written, but for the numbers
        int status  # that the client got, or would have got
        int64_t bytes_in
        int64_t bytes_out
        int64_t heads_out  # of bytes_out: heads of answers
        uint64_t decided_us  # 0: no limit was asked
        str limit  # that refused it
        str address  # of the client; None: the request was refused before that was asked
        bytes request_id
        bytes kept_head  # what `kept` points into; None: there was no request line
        Kept kept

    cdef void keep_head(self, Head head, bytes data)
    cdef void log(self, Outcome outcome, uint64_t now_us)
    cdef void _describe(self, AccessLine* line)
