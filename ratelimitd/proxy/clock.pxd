"""The one clock of the data plane, as C reads it."""

from libc.stdint cimport uint64_t
from posix.time cimport clock_gettime, timespec

cdef extern from "<time.h>" nogil:
    int CLOCK_BOOTTIME


cdef inline uint64_t boottime_us() noexcept nogil:
    """Whole microseconds of CLOCK_BOOTTIME: it never goes back and counts through a suspend."""
    cdef timespec now
    clock_gettime(CLOCK_BOOTTIME, &now)
    return <uint64_t>now.tv_sec * 1_000_000 + <uint64_t>now.tv_nsec // 1_000
