"""The clocks of the data plane, as C reads them: one to decide and measure by, one to tell people."""

from libc.stdint cimport int64_t, uint64_t
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

cdef extern from "<time.h>" nogil:
    int CLOCK_BOOTTIME


cdef inline uint64_t boottime_us() noexcept nogil:
    """Whole microseconds of CLOCK_BOOTTIME: it never goes back and counts through a suspend."""
    cdef timespec now
    clock_gettime(CLOCK_BOOTTIME, &now)
    return <uint64_t>now.tv_sec * 1_000_000 + <uint64_t>now.tv_nsec // 1_000


cdef inline int64_t wall_us() noexcept nogil:
    """Microseconds since 1970, for texts alone: it is set, and goes back when it is."""
    cdef timespec now
    clock_gettime(CLOCK_REALTIME, &now)
    return <int64_t>now.tv_sec * 1_000_000 + <int64_t>now.tv_nsec // 1_000
