"""Units of the fleet's limits, asked of the store; `leases.pyx` says how."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from ratelimitd.fleet.wire cimport Asked
from ratelimitd.limits.shared cimport Shared
from ratelimitd.limits.table cimport Charge, Grant, Table


cdef class Waiter:
    """A request that waits for units. `owner.store_answered(waiter)` is called when all answers are there, or
    will not come."""

    cdef:
        object owner  # None: it has left
        Grant* grants  # room for one of each charge
        uint64_t* slots  # that what was granted is charged to
        int granted
        int outstanding
        bint alone  # one charge: its instant is the store's
        bint was_late  # when it came to ask once more
        uint64_t deadline_us
        uint64_t time_us  # the store's clock when the last answer was made


cdef class Call(Asked):
    """What is asked for one key, with all who wait for it."""

    cdef:
        Leases leases
        Charge charge
        list waiters
        list later  # who came while it was under way; None: nobody
        uint32_t need
        uint32_t least
        uint64_t sent_us
        uint64_t due_us  # when the first of those who wait has waited long enough
        uint16_t epoch
        bint is_sent
        bint is_answered
        bint holds
        bint is_lost  # the store does not know the key that we know
        bint is_over  # nobody waits for the answer any more
        bytes command


cdef class Leases:
    cdef:
        Table table
        readonly Shared shared
        object links
        object loop
        object key_prefix
        object store_lost
        int64_t* counters
        int first_result
        int duration
        int64_t bounds[16]
        int bound_count
        readonly uint64_t deadline_us
        dict calls  # key -> the Call that is queued or under way
        list queued
        object sent  # deque of calls, in the order in which they were sent; the first was not answered
        object timer
        uint64_t timer_us  # when it is over
        bint flushing
        dict returns  # key -> [(slot, units, incarnation, until_us)]
        dict prefixes
        uint64_t nonces

    cdef Waiter wait(self, object owner, Charge* charges, int n, uint64_t now_us)
    cdef bint wait_on(self, Waiter waiter, Charge* charges, int n, uint64_t now_us)
    cdef int owe(self, Charge* charges, int n) except -1
    cdef int leave(self, Waiter waiter) except -1
    cdef int give_back(self, Waiter waiter) except -1
    cdef Call _call_for(self, Charge* charge)
    cdef int _join(self, Call call, Waiter waiter, Charge* charge) except -1
    cdef int _queue(self, Call call) except -1
    cdef int _add(self, Call call, Waiter waiter, uint32_t cost) except -1
    cdef bytes _prefix(self, Call call)
    cdef bytes _name(self, Call call)
    cdef bytes _command(self, Call call, uint64_t now_us)
    cdef int _return(self, uint64_t key, uint64_t slot, uint32_t units, uint16_t incarnation, uint64_t until_us) except -1
    cdef int take_numbers(self, Call call, const int64_t* answer, int count) except -1
    cdef int _take_answer(self, Call call, const int64_t* answer) except -1
    cdef int _serve(self, Call call, const int64_t* answer, uint64_t retry_at_us) except -1
    cdef int _watch(self, uint64_t due_us, uint64_t now_us) except -1
    cdef int _fail(self, str why, int result) except -1
    cdef int _release(self, list waiters) except -1
    cdef void _count(self, int result, int64_t duration_us) noexcept
