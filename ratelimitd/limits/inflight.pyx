# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""How many requests, or connections, of one key are in flight just now, over all workers of the machine.

Exact between processes: of two that ask for the last place one gets it. Nothing leaks: what a process held
is forgotten when it has been reaped and its page is cleared. Layout and reasons: `inflight.h`.
"""

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

cdef extern from "ratelimitd/limits/inflight.h" nogil:
    const uint32_t INFLIGHT_SLOTS
    const uint32_t INFLIGHT_REBUILD
    const uint32_t INFLIGHT_MOST
    int inflight_initialise(InFlightHeader* header)
    int inflight_lock(InFlightHeader* header, uint64_t* busy_until_ns)
    InFlightSlot* inflight_slot(InFlightSlot* table, uint64_t key)
    uint64_t inflight_sum(const InFlightHeader* header, InFlightSlot* tables, uint64_t key)
    uint32_t inflight_rebuild(InFlightSlot* table, InFlightSlot* kept)

cdef extern from "<pthread.h>" nogil:
    int pthread_mutex_unlock(void* mutex)

cdef enum:
    HEADER = 4096

HEADER_SIZE = HEADER
TABLE_SIZE = INFLIGHT_SLOTS * sizeof(InFlightSlot)


cdef class InFlight:
    """The counts at `offset` of `memory`, one table for each of `pages` pages; this process writes `page`."""

    def __cinit__(self, memory, Py_ssize_t offset, int pages, int page):
        if not 0 <= page < pages:
            raise ValueError(f"page {page} of {pages}")
        PyObject_GetBuffer(memory, &self.view, PyBUF_WRITABLE)
        self.attached = True
        if offset + HEADER + pages * TABLE_SIZE > self.view.len:
            raise ValueError("the counts of what is in flight do not fit into this memory")
        self.header = <InFlightHeader*>(<uint8_t*>self.view.buf + offset)
        self.tables = <InFlightSlot*>(<uint8_t*>self.view.buf + offset + HEADER)
        self.own = self.tables + <uint64_t>page * INFLIGHT_SLOTS
        self.page = page

    def __dealloc__(self):
        PyMem_Free(self.kept)
        if self.attached:
            PyBuffer_Release(&self.view)

    def initialise(self):
        """For a new segment, once."""
        if inflight_initialise(self.header):
            raise OSError("cannot make the mutex of the counts of what is in flight")

    cdef Entered enter(self, uint64_t key, uint64_t bound) noexcept:
        """Takes a place under `key` when fewer than `bound` are taken."""
        cdef InFlightSlot* slot
        cdef Entered entered = FULL
        key |= 1  # 0 marks a slot that was never used
        if not inflight_lock(self.header, &self.busy_until_ns):
            return UNKNOWN
        if self.header.pages <= <uint64_t>self.page:
            self.header.pages = self.page + 1
        if inflight_sum(self.header, self.tables, key) < bound:
            slot = inflight_slot(self.own, key)
            if slot.key == 0 and not self._make_room():
                entered = UNKNOWN
            else:
                entered = ENTERED
                slot = inflight_slot(self.own, key)
                if slot.key == 0:
                    self.used += 1
                elif slot.count == 0:
                    self.unheld -= 1
                slot.key = key
                slot.count += 1
        pthread_mutex_unlock(<void*>self.header)
        return entered

    cdef bint _make_room(self) noexcept:
        """Whether one key more has room. The table is built anew only where that frees a quarter of what is used:
        then it costs each key next to nothing."""
        if self.used < INFLIGHT_REBUILD or self.unheld < self.used // 4:
            return self.used < INFLIGHT_MOST
        if self.kept is NULL:
            self.kept = <InFlightSlot*>PyMem_Malloc(INFLIGHT_MOST * sizeof(InFlightSlot))
        if self.kept is NULL:
            return self.used < INFLIGHT_MOST
        self.used = inflight_rebuild(self.own, self.kept)
        self.unheld = 0
        return True

    cdef void leave(self, uint64_t key) noexcept:
        """Gives back a place that `enter` took."""
        cdef InFlightSlot* slot = inflight_slot(self.own, key | 1)
        slot.count -= 1
        if slot.count == 0:
            self.unheld += 1

    cdef uint64_t taken(self, uint64_t key) noexcept:
        """How many places under `key` are taken, at about this instant."""
        return inflight_sum(self.header, self.tables, key | 1)

    def count(self, uint64_t key):
        """How many places under `key` are taken. Under the lock: one that goes from one process to another
        meanwhile would be seen twice."""
        cdef bint locked = inflight_lock(self.header, &self.busy_until_ns)
        cdef uint64_t taken = self.taken(key)
        if locked:
            pthread_mutex_unlock(<void*>self.header)
        return taken

    def try_enter(self, uint64_t key, uint64_t bound):
        """`enter`, for tests: True when a place was taken."""
        return self.enter(key, bound) == ENTERED

    def release(self, uint64_t key):
        """`leave`, for tests."""
        self.leave(key)

    def clear(self, int page):
        """Forgets what the process of `page` held; only after it was reaped. False: the lock is not free."""
        if not inflight_lock(self.header, &self.busy_until_ns):
            return False
        memset(self.tables + <uint64_t>page * INFLIGHT_SLOTS, 0, TABLE_SIZE)
        pthread_mutex_unlock(<void*>self.header)
        return True
