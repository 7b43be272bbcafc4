"""What the limits say of a request; `limiting.pyx` says what it promises."""

from ratelimitd.fleet.leases cimport Waiter
from ratelimitd.http.head cimport Head
from ratelimitd.http.matching cimport RequestText
from ratelimitd.limits.charges cimport Client, Found
from ratelimitd.limits.decision cimport Decision
from ratelimitd.proxy.live cimport Outcome, Policy
from ratelimitd.proxy.upload cimport Upload


cdef class Limiting(Upload):
    cdef:
        Client client
        bint trusted
        Waiter waiter  # for units of the fleet's limits
        Head waiting_head  # of the request that waits
        RequestText waiting_text
        Found waiting_found

    cdef bint turn_away(self, Head head, int status, str detail, Outcome outcome, str limit, bytes added)
    cdef bint decide(self, Head head, RequestText text)
    cdef void forward(self, Head head)
    cdef bint _conclude(self, Head head, RequestText text, Decision decision)
    cdef void let_go(self) noexcept
    cdef void _tell_instant(self, Policy policy)
    cdef bint _wait(self, Head head, RequestText text)
    cdef Decision _decide_answered(self, Waiter waiter, Found found)
    cdef bint _refuse_limited(self, Head head, Decision decision)
    cdef int _note_refusal(self, Head head, RequestText text) except -1
