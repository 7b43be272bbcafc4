"""The side of the clients; `client.pyx` says what it promises."""

from libc.stdint cimport uint64_t

from ratelimitd.http.head cimport Head
from ratelimitd.http.matching cimport RequestText
from ratelimitd.limits.charges cimport Client
from ratelimitd.proxy.admission cimport Entries
from ratelimitd.proxy.limiting cimport Limiting
from ratelimitd.proxy.live cimport Policy, Route


cdef class ClientConnection(Limiting):
    cdef:
        Policy client_policy  # the policy that said who the client is
        bytes client_field  # the believed field's value it was said from
        bytes scheme
        bytes peer_text
        bytes peer_lines
        Entries entries
        bint serving

    cdef void _append(self, bytes data)
    cdef void _wait_turn(self)
    cdef bint _has_requests(self) noexcept
    cdef bint _read_request(self)
    cdef bint _refuse_large(self, Policy policy)
    cdef bint _wait_for_head(self, Policy policy)
    cdef void _take_head(self, Head head)
    cdef bint _is_served(self, Head head, bytes method)
    cdef bint _is_read_alike(self, Head head, bytes method)
    cdef bint _admit(self, Head head, bytes method)
    cdef bint _shed(self, Head head)
    cdef Route _route(self, Policy policy, RequestText text)
    cdef void _identify(self, Head head)
    cdef Client _forwarded_client(self, Policy policy, bytes field)
