"""The ticking wheel of a worker; `deadlines.pyx` says how it works."""

from libc.stdint cimport uint64_t


cdef class Timed:
    """Something with at most one deadline at a time."""

    cdef:
        uint64_t deadline  # tick at which it is over; 0: none
        uint64_t _due  # tick of the slot it is linked into; 0: not linked
        Timed _previous
        Timed _next

    cdef void expire(self)


cdef class Wheel:
    cdef:
        readonly uint64_t now  # the tick that was reached last
        uint64_t _swept  # whose slot was looked at last
        readonly uint64_t tick_ms
        list _slots

    cdef void set(self, Timed timed, uint64_t delay_ms)
    cdef void clear(self, Timed timed) noexcept
    cdef void forget(self, Timed timed)
    cdef void _link(self, Timed timed, uint64_t tick)
