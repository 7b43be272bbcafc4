# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""The gate that each request passes between its route and the limits: is it shed?

While nothing is shed that is one addition and one comparison. Else of priority p the share passes that the last
order said: of the one class that is cut through, those first who use little of it (`shares`), the others by
chance, drawn by a generator of the gate's own (xorshift64*). What is shed is told a time to stay away, drawn
the same way.
"""

from libc.stdint cimport int64_t, uint64_t

cdef enum:
    MILLION = 1_000_000
    MOST_SPREAD_S = 29

cdef list RETRY_AFTER = [b"Retry-After: %d\r\n" % (1 + second) for second in range(MOST_SPREAD_S + 1)]


cdef class Gate:
    """Open until it is told otherwise. `arrivals` are four words, which it counts requests into by priority."""

    def __init__(self, int64_t[::1] arrivals, uint64_t seed):
        if arrivals.shape[0] != 4:
            raise ValueError("a gate counts four priorities")
        self.arrivals_view = arrivals
        self.arrivals = &arrivals[0]
        self.random = seed | 1  # the generator's one bad state is 0
        self.shares = Shares(seed)
        self.open()

    def open(self):
        """Everybody passes."""
        self.shedding = False
        self.cut = -1

    def set(self, tuple passing, int spread_s):
        """From now on `passing` millionths of each priority pass; what is shed is to come back within
        1 to 1 + `spread_s` seconds. Called at each tick, which is a turn of the shares."""
        cdef int i, cut = -1
        self.shedding = False
        for i in range(4):
            self.passing[i] = passing[i]
            self.shedding |= self.passing[i] < MILLION
            if 0 < self.passing[i] < MILLION:
                cut = i
        if cut != self.cut:
            self.shares.clear(self._draw())
            self.cut = cut
        elif cut >= 0:
            self.shares.turn(<double>self.passing[cut] / MILLION)
        self.spread_s = max(0, min(spread_s, MOST_SPREAD_S))

    def ask(self, int priority, bytes client=b""):
        """What `admits` says, for callers in Python."""
        if not 0 <= priority < 4:
            raise ValueError(f"there is no priority {priority}")
        return self.admits(priority, client)

    def retry_after_line(self):
        """What `retry_after` draws, for callers in Python."""
        return self.retry_after()

    cdef bint _passes(self, int priority, bytes client) noexcept:
        cdef int64_t share = self.passing[priority]
        cdef double chance
        if priority == self.cut:
            chance = self.shares.chance(<uint64_t><int64_t>hash(client))
            if chance >= 0:
                share = <int64_t>(chance * MILLION)
        return <int64_t>(self._draw() % MILLION) < share

    cdef uint64_t _draw(self) noexcept:
        self.random ^= self.random >> 12
        self.random ^= self.random << 25
        self.random ^= self.random >> 27
        return (self.random * <uint64_t>2685821657736338717) >> 11

    cdef bytes retry_after(self):
        """A line for a reply to what was shed."""
        return <bytes>RETRY_AFTER[self._draw() % (self.spread_s + 1)]
