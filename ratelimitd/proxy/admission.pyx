# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""Whether there is room for one connection more: of all clients, of one client, of this process's descriptors.

The first two are counted over all workers and exactly (`limits/inflight`). At the limit of descriptors the
oldest idle connections end, so that newcomers are served and web servers can still be reached; where none is
idle the newcomer is closed. The kernel gives the lowest descriptor that is free, so a high number of a new one
says that all below are in use, without any being counted.
"""

from libc.stdint cimport uint64_t

from ratelimitd.limits.inflight cimport ENTERED, FULL, Entered, InFlight
from ratelimitd.proxy.deadlines cimport Timed, Wheel

import heapq

cdef enum:
    LEAST_RESERVE = 24
    MOST_RESERVE = 1024
    LEAST_FOUND = 64
    REMEMBERED_TICKS = 20


cdef class Admission:
    """Of one worker. `total_key` is that of all connections in `inflight`; `connections` are those of this
    worker that are open."""

    def __init__(self, InFlight inflight, uint64_t total_key, Wheel wheel, int most_descriptors):
        self.inflight = inflight
        self.total_key = total_key
        self.wheel = wheel
        self.connections = set()
        self.oldest = []
        self.most_descriptors = most_descriptors
        self.reserve = max(LEAST_RESERVE, min(MOST_RESERVE, most_descriptors // 8))

    cdef Admitted enter(self, object transport, int most, uint64_t client, int most_of_client, Entries* entries):
        """Takes a place among all, and one among those of `client` (0: its connections are not counted).
        Where a count was not free none is taken, and none is given back."""
        cdef Entered entered
        if 2 * len(self.connections) + self.reserve > self.most_descriptors and not self._has_descriptors(transport):
            return TOO_MANY
        entered = self.inflight.enter(self.total_key, most)
        if entered == FULL:
            return TOO_MANY
        if entered == ENTERED:
            entries.total = self.total_key
        if client:
            entered = self.inflight.enter(client, most_of_client)
            if entered == FULL:
                return TOO_MANY_OF_ONE
            if entered == ENTERED:
                entries.client = client
        return ROOM

    cdef void leave(self, Entries* entries) noexcept:
        """Gives back what was taken."""
        if entries.total:
            self.inflight.leave(entries.total)
        if entries.client:
            self.inflight.leave(entries.client)

    cdef bint _has_descriptors(self, object transport):
        """Ends what must end so that the reserve is whole again; False when even half of it is gone."""
        cdef int number = transport.get_extra_info("socket").fileno()
        cdef int bound = self.most_descriptors - self.reserve
        if number >= bound:
            self.others = number + 1 - <int>len(self.connections)
            self.others_until = self.wheel.now + REMEMBERED_TICKS
        elif self.wheel.now > self.others_until:
            self.others = 0
        if self.others:
            self._end_oldest_idle(self.others + <int>len(self.connections) - bound)
        return number < self.most_descriptors - self.reserve // 2

    cdef void _end_oldest_idle(self, int wanted):
        """They are found in a look at all connections, many at a time; one that was used since is none of them
        any more. A look that finds none is not repeated before the next tick."""
        if wanted > 0 and not self.oldest and self.fruitless_at != self.wheel.now:
            # The newcomer is among them already, and has no deadline yet.
            idle = [
                (since_us, id(one), one) for one in self.connections
                if (<Timed>one).deadline and (since_us := one.idle_since_us())
            ]
            self.oldest = heapq.nsmallest(max(LEAST_FOUND, len(idle) // 16), idle)
            self.oldest.reverse()
            self.fruitless_at = 0 if idle else self.wheel.now
        while self.oldest and wanted > 0:
            since_us, _, one = self.oldest.pop()
            if one.idle_since_us() == since_us and one.close_if_idle():
                wanted -= 1
                self.connections.discard(one)  # or the next newcomer would see it as open, and end one more
