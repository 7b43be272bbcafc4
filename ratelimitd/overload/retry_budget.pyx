# cython: boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""A budget of retries: those of the last ten seconds may be a share of the requests of that time, and five more.

Retries are most wanted when servers fail, which is when they do most harm: without a bound each server that
dies doubles what is asked of the others. The five are for a service that is asked little, which would else
have no retry at all. Time is the caller's: ticks that only grow.
"""

from libc.stdint cimport uint64_t

cdef enum:
    SECONDS = 10
    FLOOR = 5


cdef class RetryBudget:
    """`share` of the requests; 0: none at all. A second has `second_ticks` ticks."""

    def __init__(self, double share, uint64_t second_ticks):
        self.share = share
        self.second_ticks = second_ticks

    cdef bint allows(self, uint64_t now) noexcept:
        """Whether one may be tried again now; it counts as tried then."""
        if now >= self.second_ends:
            self._turn(now)
        if self.share == 0 or self.again_sum + 1 > self.share * self.asked_sum + FLOOR:
            return False
        self.again[self.second] += 1
        self.again_sum += 1
        return True

    cdef void _turn(self, uint64_t now) noexcept:
        """Forgets the seconds that are no longer among the last ten."""
        cdef uint64_t passed = (now - self.second_ends) // self.second_ticks + 1
        self.second_ends += passed * self.second_ticks
        for _ in range(min(passed, <uint64_t>SECONDS)):
            self.second = (self.second + 1) % SECONDS
            self.asked_sum -= self.asked[self.second]
            self.again_sum -= self.again[self.second]
            self.asked[self.second] = self.again[self.second] = 0

    def ask(self, uint64_t now):
        """`note`, for callers in Python."""
        self.note(now)

    def try_again(self, uint64_t now):
        """`allows`, for callers in Python."""
        return self.allows(now)
