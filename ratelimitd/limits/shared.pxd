"""How the store does, as one worker sees it; `shared.pyx` says what it promises."""

from libc.stdint cimport int64_t, uint64_t

from ratelimitd.limits.table cimport Store


cdef class Shared:
    cdef:
        uint64_t* words
        object memory
        int64_t wall_offset_us
        int64_t earlier_us
        int64_t latest_us
        uint64_t bucket_us
        public bint linked  # this worker reaches the store
        bint forced  # decide as if the store was away
        bint is_away  # what the last view said
        readonly int64_t offset_us  # what makes an instant of the table one of the store, less the wall clock's

    cdef Store view(self) noexcept
    cdef uint64_t recharge_since_us(self) noexcept
    cdef uint64_t nodes_now(self) noexcept
    cdef void note(self, uint64_t time_us, uint64_t sent_us) noexcept
