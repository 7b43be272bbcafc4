"""The web servers of an upstream and which one is asked; `balancing.pyx` says how it is chosen."""

from libc.stdint cimport int64_t, uint64_t

from ratelimitd.proxy.deadlines cimport Timed, Wheel
from ratelimitd.proxy.places cimport Places

cdef extern from "ratelimitd/segment/server_state.h" nogil:
    ctypedef struct ServerState:
        uint64_t down
        uint64_t failures
        uint64_t ejected_until_us
        uint64_t back_us
        uint64_t wanted_us


cdef enum Method:
    LEAST_REQUESTS
    ROUND_ROBIN
    CLIENT


cdef class Kept(Timed):
    """A connection that may lie idle: a link of its server's stack."""

    cdef:
        bint idle
        Kept _newer
        Kept _older


cdef class Server:
    cdef:
        readonly str url
        readonly object address  # config.model.Server
        readonly int in_flight
        readonly int idle_count
        readonly set connections  # all that are open
        Places places  # of connections; None: no bound
        ServerState* state
        Kept newest  # of the idle ones
        bytes host_line
        int64_t* slots
        int first_code_slot
        int in_flight_slot
        uint64_t seed
        int64_t weight
        # of the choice in work, or between two
        int64_t share
        int64_t turn
        bint eligible
        uint64_t back_us  # as it was seen last
        uint64_t warm_at  # tick at which it gets its full share

    cdef void took(self, int change) noexcept
    cdef void keep(self, Kept connection)
    cdef Kept pop(self)
    cdef void drop(self, Kept connection)
    cdef bint is_wanted(self) noexcept


cdef class Balancer:
    cdef:
        readonly tuple servers
        Wheel wheel
        Server only
        tuple primaries
        tuple backups
        Method method
        uint64_t slow_start_ticks
        uint64_t eject_failures
        uint64_t eject_for_us
        bint full  # the last choice found a server that is up, and no room

    cdef Server choose(self, uint64_t client, set tried)
    cdef Server _among(self, tuple servers, uint64_t client, set tried)
    cdef bint _is_eligible(self, Server server) noexcept
    cdef int64_t _share_now(self, Server server) noexcept
    cdef Server _next_in_turn(self, tuple servers, Server least)
    cdef Server _of_client(self, tuple servers, uint64_t client)
    cdef void answered(self, Server server) noexcept
    cdef void failed(self, Server server) noexcept
    cdef bint _is_last(self, Server server) noexcept
