# cython: boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Who uses how much of a class that passes in part, and with what chance each client passes.

A client whose use of late is u passes with the chance min(1, theta / u), where theta is such that the sum is
what is to pass: who uses most is refused first, and who uses less than theta never. Use is counted in cells by
a hash of the client with another salt each time that something is shed, so that two who share a cell do not
share it for ever. Who is not known yet uses nothing.
"""

from libc.stdint cimport uint64_t
from libc.string cimport memset

cdef float KEPT = 0.97  # of a count at each turn: at twenty turns a second, half of it is gone in 1.1 s
cdef enum:
    STEPS = 20  # of the search for theta


cdef class Shares:
    """Empty until somebody is counted."""

    def __init__(self, uint64_t salt=1):
        self.clear(salt)

    def count(self, uint64_t key):
        """What `chance` says, for callers in Python."""
        return self.chance(key)

    def end_turn(self, double passing):
        """What `turn` does, for callers in Python."""
        self.turn(passing)

    cdef void clear(self, uint64_t salt) noexcept:
        """Forgets everybody."""
        memset(self.lately, 0, sizeof(self.lately))
        memset(self.counted, 0, sizeof(self.counted))
        self.salt = salt | 1
        self.theta = -1

    cdef double chance(self, uint64_t key) noexcept:
        """Counts a request of a client; negative while nobody's use is known."""
        cdef uint64_t cell = (key * self.salt) >> 52  # the 12 highest bits
        self.counted[cell] += 1
        if self.theta < 0 or self.lately[cell] > self.theta:
            return self.theta / max(self.lately[cell], 1)
        return 1.0

    cdef void turn(self, double passing) noexcept:
        """What was counted is known from now on, and `passing` (0 to 1) of the class is to pass."""
        cdef double total = 0, low = 0, high = 0, passed
        cdef int i, step
        for i in range(CELLS):
            self.lately[i] = KEPT * self.lately[i] + self.counted[i]
            self.counted[i] = 0
            total += self.lately[i]
            high = max(high, self.lately[i])
        if total < 1:
            self.theta = -1
            return
        for step in range(STEPS):
            self.theta = (low + high) / 2
            passed = 0
            for i in range(CELLS):
                passed += min(<double>self.lately[i], self.theta)
            if passed < passing * total:
                low = self.theta
            else:
                high = self.theta
        self.theta = high
