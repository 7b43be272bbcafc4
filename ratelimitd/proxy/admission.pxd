"""Room for one connection more; `admission.pyx` says when there is."""

from libc.stdint cimport uint64_t

from ratelimitd.limits.inflight cimport InFlight
from ratelimitd.proxy.deadlines cimport Wheel


cdef enum Admitted:
    ROOM
    TOO_MANY
    TOO_MANY_OF_ONE


cdef struct Entries:
    uint64_t total  # 0: none was taken
    uint64_t client


cdef class Admission:
    cdef:
        InFlight inflight
        Wheel wheel
        uint64_t total_key
        readonly set connections
        readonly int most_descriptors
        int reserve
        int others  # descriptors that are no client's, as was seen when there were few left; 0: not so lately
        uint64_t others_until
        list oldest  # idle connections that are to end first, the oldest last; some are busy again
        uint64_t fruitless_at  # tick at which none was idle

    cdef Admitted enter(self, object transport, int most, uint64_t client, int most_of_client, Entries* entries)
    cdef void leave(self, Entries* entries) noexcept
    cdef bint _has_descriptors(self, object transport)
    cdef void _end_oldest_idle(self, int wanted)
