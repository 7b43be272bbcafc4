"""How requests get to a web server; `dispatch.pyx` says what it promises."""

from ratelimitd.overload.retry_budget cimport RetryBudget
from ratelimitd.overload.waiting cimport Place, Waiting
from ratelimitd.proxy.balancing cimport Server
from ratelimitd.proxy.places cimport Places
from ratelimitd.proxy.upstream cimport Attempt, Connection, Downstream, Upstream


cdef class Dispatcher(Upstream):
    cdef:
        object loop
        object dial
        Server lone  # when there is nothing to choose and nothing is bounded
        Places places  # of requests; None: no bound
        Waiting waiting  # None: there is always room
        RetryBudget budget  # None: there is no other server to try
        int attempts
        bint slot  # that the last look for room took, and the next line takes over
        bint place
        bint turning

    cdef Server _find(self, Downstream asker)
    cdef bint _take_place(self, Server server) noexcept
    cdef void _ask(self, Downstream asker, Server server)
    cdef void _none_up(self, Downstream asker)
    cdef void _wait(self, Downstream asker)
    cdef void _turn_away(self, Place place)
    cdef void _open(self, Downstream asker, Server server, bint slot, bint place)
    cdef Server _following(self, Attempt attempt, set tried)
    cdef void _begin(self, Attempt attempt, Connection connection)
    cdef void _unreached(self, Attempt attempt)
