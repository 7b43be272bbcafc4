# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""Whom a worker refuses most: 1,024 places, each for one key of those that share it.

A refusal costs an addition; the text of a key is made once, when it gets a place. A key keeps its place while it
is refused more often than the others there together, so that a flood of keys that are refused once hides
nobody who is refused all the time. What is counted is for people to look at: no decision depends on it.
"""

from cpython.bytes cimport PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

cimport cython

cdef enum:
    HEAVIEST = 1 << 20
    LONGEST = 256  # bytes of a text that is kept


@cython.final
cdef class Refusals:
    def __cinit__(self):
        memset(self.places, 0, sizeof(self.places))
        self.texts = [None] * PLACES

    cdef bint note(self, uint64_t key) noexcept:
        """Counts a refusal; True when the key's place is free for it: then `keep` its text."""
        cdef Refusal* place = &self.places[key % PLACES]
        if place.key == key and self.texts[key % PLACES] is not None:
            place.count += 1
            if place.weight < HEAVIEST:
                place.weight += 1
            return False
        if place.weight:
            place.weight -= 1
            return False
        return True

    cdef int keep(self, uint64_t key, str limit, bytes tail) except -1:
        """Gives a free place to a key; `tail` is its material without the salt. Others than short ones are
        nobody's names."""
        if tail and PyBytes_GET_SIZE(tail) <= LONGEST:
            self.places[key % PLACES] = Refusal(key, 1, 1)
            self.texts[key % PLACES] = (limit, tail)
        return 0

    def refused(self, uint64_t key, str limit, bytes tail):
        """`note`, and `keep` where it asks for it, in words of Python."""
        if self.note(key):
            self.keep(key, limit, tail)

    def take(self):
        """(limit, tail, refusals) of each key that was refused since the last time."""
        cdef list taken = []
        cdef int i
        for i in range(PLACES):
            if self.places[i].count:
                limit, tail = self.texts[i]
                taken.append((limit, tail, self.places[i].count))
                self.places[i].count = 0
            self.places[i].weight >>= 1
        return taken
