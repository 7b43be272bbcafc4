"""How many requests may be tried again; `retry_budget.pyx` says how it is counted."""

from libc.stdint cimport uint64_t


cdef class RetryBudget:
    cdef:
        double share
        uint64_t second_ticks
        uint64_t second_ends
        int second
        int[10] asked
        int[10] again
        int asked_sum
        int again_sum

    cdef inline void note(self, uint64_t now) noexcept:
        """Somebody asks, for the first time."""
        if now >= self.second_ends:
            self._turn(now)
        self.asked[self.second] += 1
        self.asked_sum += 1

    cdef bint allows(self, uint64_t now) noexcept
    cdef void _turn(self, uint64_t now) noexcept
