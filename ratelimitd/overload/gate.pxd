"""Which requests pass while something is shed; `gate.pyx` says how."""

from libc.stdint cimport int64_t, uint64_t

cimport cython

from ratelimitd.overload.shares cimport Shares


@cython.final
cdef class Gate:
    cdef:
        object arrivals_view  # keeps the words alive
        int64_t* arrivals
        bint shedding
        int64_t passing[4]  # of a million
        uint64_t random
        int spread_s
        Shares shares  # of the class that passes in part
        int cut  # that class; -1: none does

    cdef inline bint admits(self, int priority, bytes client) noexcept:
        """Counts a request of this priority, and says whether it passes; `client` is what its key is made of."""
        self.arrivals[priority] += 1
        return not self.shedding or self._passes(priority, client)

    cdef bint _passes(self, int priority, bytes client) noexcept
    cdef uint64_t _draw(self) noexcept
    cdef bytes retry_after(self)
