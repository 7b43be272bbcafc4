# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""How the store does, as one worker sees it at a decision, and what its clock says.

The words are those of `segment.store`; a worker that does not reach the store decides as if it was away, whatever
they say. The store's clock is estimated from calls: a script ran after its call was sent, so what it read less the
instant of sending is never too little, and the least of the last seconds is the nearest. Instants may be told too
late by that, never before the unit was granted.
"""

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint8_t, uint64_t

from ratelimitd.limits.table cimport STORE_AWAY, STORE_SHARED, Store

cdef enum:
    BUCKET_US = 5000000  # the least is that of one to two of them

    # words, as segment.store orders them
    STATE = 0
    RECHARGE_SINCE = 2
    NODES_ASSUMED = 3
    NODES_NOW = 4


cdef class Shared:
    """`first_word` is where the words of the store begin in `memory`."""

    def __cinit__(self, memory, Py_ssize_t first_word, int64_t wall_offset_us):
        cdef Py_buffer view
        PyObject_GetBuffer(memory, &view, PyBUF_WRITABLE)
        self.words = <uint64_t*>(<uint8_t*>view.buf + first_word)
        self.memory = memory
        PyBuffer_Release(&view)
        self.wall_offset_us = wall_offset_us

    cdef Store view(self) noexcept:
        cdef uint64_t state = self.words[STATE]
        cdef Store store
        store.mode = state & 0xFF
        store.epoch = state >> 8 & 0xFFFF
        store.nodes = <unsigned int>self.words[NODES_ASSUMED]
        store.unlinked = (not self.linked or self.forced) and store.mode == STORE_SHARED
        if not self.linked or self.forced:
            store.mode = STORE_AWAY
        self.is_away = store.mode == STORE_AWAY
        return store

    cdef uint64_t recharge_since_us(self) noexcept:
        return self.words[RECHARGE_SINCE]

    cdef uint64_t nodes_now(self) noexcept:
        return max(1, self.words[NODES_NOW])

    cdef void note(self, uint64_t time_us, uint64_t sent_us) noexcept:
        """The store's clock said `time_us` in a call that was sent at `sent_us` of ours."""
        cdef int64_t found_us = <int64_t>time_us - <int64_t>sent_us - self.wall_offset_us
        if sent_us - self.bucket_us > BUCKET_US:
            self.earlier_us = found_us if self.bucket_us == 0 else self.latest_us
            self.latest_us = found_us
            self.bucket_us = sent_us
        self.latest_us = min(self.latest_us, found_us)
        self.offset_us = min(self.earlier_us, self.latest_us)

    def learn(self, uint64_t time_us, uint64_t sent_us):
        """`note` in words of Python."""
        self.note(time_us, sent_us)
