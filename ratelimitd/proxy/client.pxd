"""The side of the clients; `client.pyx` says what it promises."""

from libc.stdint cimport int64_t, uint64_t

from ratelimitd.http.head cimport Head
from ratelimitd.http.second_reader cimport Witness
from ratelimitd.limits.decision cimport Client, Decision
from ratelimitd.proxy.live cimport Listener, Live, Outcome, Policy, Route
from ratelimitd.proxy.upstream cimport Downstream


cdef class ClientConnection(Downstream):
    cdef:
        Listener listener
        Live live
        object transport
        object write
        Client client
        Policy client_policy  # the policy that said who the client is
        bytes client_field  # the believed field's value it was said from
        str peer
        bytes peer_text
        bytes peer_lines
        bint trusted
        int state
        bytes buffer
        Py_ssize_t at
        size_t resume
        bint reading_paused
        bint write_paused
        bint serving
        # of the request in work
        Policy policy
        Route route
        Witness witness
        bint keep_alive
        bint closes
        bint expects_continue
        int64_t body_left
        list parts
        bytes rate_lines
        int64_t moved
        uint64_t started_us
        uint64_t asked_us
        uint64_t answered_us

    cdef void _serve(self)
    cdef bint _read_request(self)
    cdef bint _wait_for_head(self, Policy policy)
    cdef bint _admit(self, Head head)
    cdef Route _route(self, Policy policy, object text)
    cdef bint _decide(self, Head head, object text)
    cdef bint _refuse_limited(self, Head head, Decision decision)
    cdef void _identify(self, Head head)
    cdef void _forward(self, Head head)
    cdef void _take_body(self, bytes data)
    cdef bint _witnessed(self, object data)
    cdef void _send(self)
    cdef void _answered(self)
    cdef void _reply(
        self, int status, str detail, Outcome outcome, str limit, bytes added, bint unreadable, bint as_text
    )
    cdef void _begin_request(self, Policy policy)
    cdef void _settle(self, bint close, bint unreadable)
    cdef void _end_request(self, Outcome outcome)
    cdef void _await_next(self)
    cdef void _linger(self)
    cdef void _close(self)
    cdef void _cut(self)
    cdef void _pause(self, bint pause)
    cdef void _drop_exchange(self)
