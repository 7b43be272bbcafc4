# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""How many of something there may be at once, over all workers: requests of an upstream, connections to a server.

A name for one key of `limits/inflight`, which counts exactly between processes and forgets what a process held
that has died. When that count is not to be had (its lock's holder is stopped), nobody is kept waiting for it.
"""

from libc.stdint cimport uint64_t

from ratelimitd.limits.inflight cimport ENTERED, FULL, Entered, InFlight


cdef class Places:
    """At most `most` places under `key`."""

    def __init__(self, InFlight inflight, uint64_t key, uint64_t most):
        self.inflight = inflight
        self.key = key
        self.most = most

    cdef Taken take(self) noexcept:
        cdef Entered entered = self.inflight.enter(self.key, self.most)
        if entered == ENTERED:
            return TAKEN
        return NONE_LEFT if entered == FULL else UNCOUNTED

    cdef void give(self) noexcept:
        self.inflight.leave(self.key)

    cdef bint full(self) noexcept:
        """What `take` would say if nobody came between."""
        return self.inflight.taken(self.key) >= self.most
