# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""Deadlines of a worker: coarse, and free of charge while they are only pushed back.

One wheel of slots, one slot a tick. A deadline that moves later is a store of one number; the entry moves
when its old slot comes up. Only one that moves earlier is linked anew. So a keep-alive connection that goes
through `head`, `response` and `idle` with each request costs no timer, and expiry is late by at most two ticks.
"""

from libc.stdint cimport uint64_t

cdef enum:
    SLOTS = 1024


cdef class Timed:
    cdef void expire(self):
        """Called once when the deadline is over; it is clear then."""


cdef class Wheel:
    """`advance` is called once a tick by whoever owns the clock; nothing here reads one."""

    def __cinit__(self, uint64_t tick_ms=50):
        cdef Timed head
        self.tick_ms = tick_ms
        self.now = self._swept = 1
        self._slots = []
        for _ in range(SLOTS):
            head = Timed()
            head._previous = head._next = head
            self._slots.append(head)

    cdef void set(self, Timed timed, uint64_t delay_ms):
        """The deadline is `delay_ms` from now, and no other one holds."""
        timed.deadline = self.now + delay_ms // self.tick_ms + 1
        if timed._due == 0 or timed.deadline < timed._due:
            self._link(timed, timed.deadline)

    cdef void clear(self, Timed timed) noexcept:
        """No deadline; its place in the wheel is kept for the next one."""
        timed.deadline = 0

    cdef void forget(self, Timed timed):
        """Out of the wheel: for what ends."""
        timed.deadline = 0
        if timed._due:
            timed._previous._next = timed._next
            timed._next._previous = timed._previous
            timed._previous = timed._next = None
            timed._due = 0

    cdef void _link(self, Timed timed, uint64_t tick):
        cdef Timed head
        if timed._due:
            timed._previous._next = timed._next
            timed._next._previous = timed._previous
        timed._due = min(tick, self._swept + SLOTS - 1)
        head = <Timed>self._slots[timed._due % SLOTS]
        timed._previous = head._previous
        timed._next = head
        head._previous._next = timed
        head._previous = timed

    def advance(self, uint64_t tick, uint64_t held=0):
        """It is `tick` now. Expires all that is due, but what became so in the last `held` ticks: that is left to the
        next call, and so is what one that raises leaves behind in its slot."""
        cdef Timed head, timed
        cdef uint64_t deadline, due
        self.now = max(self.now, tick)
        due = max(self._swept, self.now - min(held, self.now))
        while True:
            head = <Timed>self._slots[self._swept % SLOTS]
            while head._next is not head:
                timed = head._next
                deadline = timed.deadline
                self.forget(timed)
                if deadline > due:
                    timed.deadline = deadline
                    self._link(timed, deadline)
                elif deadline:
                    timed.expire()
            if self._swept >= due:
                break
            self._swept += 1
