"""Which requests pass while something is shed; `gate.pyx` says how."""

from libc.stdint cimport int64_t, uint64_t

cimport cython


@cython.final
cdef class Gate:
    cdef:
        object arrivals_view  # keeps the words alive
        int64_t* arrivals
        bint shedding
        int64_t passing[4]  # of a million
        uint64_t random
        int spread_s

    cdef inline bint admits(self, int priority) noexcept:
        """Counts a request of this priority, and says whether it passes."""
        self.arrivals[priority] += 1
        return not self.shedding or self._by_chance(priority)

    cdef bint _by_chance(self, int priority) noexcept
    cdef uint64_t _draw(self) noexcept
    cdef bytes retry_after(self)
