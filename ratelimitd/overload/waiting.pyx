# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""A bounded queue in front of an upstream that has no room just now: whose turn is next, and who waited too long.

The highest priority goes first. Within one it is first come, first served, while the queue is that of a moment;
once somebody has been waiting without a break for as long as one may wait, last come, first served: in a crowd
that does not fit, the oldest will not be answered in time whatever is done, and the newest still can be. Time
is the caller's: ticks that only grow. Joining and leaving cost the same however many wait.
"""

from libc.stdint cimport uint64_t


cdef class Place:
    """Where somebody waits."""


cdef class Waiting:
    """At most `size` wait, each at most `most_ticks`."""

    def __init__(self, int size, uint64_t most_ticks):
        cdef Place head
        heads = []
        for _ in range(4):
            head = Place()
            head.previous = head.following = head
            heads.append(head)
        self.heads = tuple(heads)
        self.size = size
        self.most_ticks = most_ticks

    cdef Place join(self, object waiter, int priority, uint64_t now):
        """A place for `waiter`; None when none is left: somebody of `lowest(priority)` may be asked to leave."""
        cdef Place place, head
        if self.count >= self.size or self.most_ticks == 0:
            return None
        if self.count == 0:
            self.standing_since = now
        place = Place()
        place.waiter = waiter
        place.priority = priority
        place.since = now
        head = <Place>self.heads[priority]
        place.previous = head.previous
        place.following = head
        head.previous.following = place
        head.previous = place
        self.count += 1
        return place

    cdef void leave(self, Place place):
        place.previous.following = place.following
        place.following.previous = place.previous
        place.previous = place.following = None
        self.count -= 1

    cdef Place first(self, uint64_t now):
        """Whose turn it is; None: nobody waits."""
        cdef Place head
        for i in range(4):
            head = <Place>self.heads[i]
            if head.following is not head:
                return head.previous if now - self.standing_since >= self.most_ticks else head.following
        return None

    cdef Place overdue(self, uint64_t now):
        """One who has waited for too long; None: nobody has."""
        cdef Place head
        for i in range(4):
            head = <Place>self.heads[i]
            if head.following is not head and now - head.following.since >= self.most_ticks:
                return head.following
        return None

    cdef Place lowest(self, int above):
        """Who waits longest of the lowest priority, if that is lower than `above`; else None."""
        cdef Place head
        for i in range(3, above, -1):
            head = <Place>self.heads[i]
            if head.following is not head:
                return head.following
        return None

    # For callers in Python.

    def enter(self, waiter, int priority, uint64_t now):
        if not 0 <= priority < 4:
            raise ValueError(f"there is no priority {priority}")
        return self.join(waiter, priority, now)

    def remove(self, Place place):
        self.leave(place)

    def next(self, uint64_t now):
        return self.first(now)

    def late(self, uint64_t now):
        return self.overdue(now)

    def least(self, int above):
        return self.lowest(above)
