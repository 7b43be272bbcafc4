# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""An IPv4 address in the spelling that nearly all have, read at once; `keys` reads all the others.

Four numbers to 255 without leading zeros, which some read as octal.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint32_t


cpdef int64_t plain_ipv4(bytes text) noexcept:
    """The number of the address; -1 for anything else."""
    cdef const unsigned char* at = <const unsigned char*>PyBytes_AS_STRING(text)
    cdef Py_ssize_t i, size = PyBytes_GET_SIZE(text)
    cdef uint32_t number = 0, part = 0
    cdef int parts = 0, digits = 0
    if size < 7 or size > 15:
        return -1
    for i in range(size):
        if at[i] == c".":
            if digits == 0 or parts == 3:
                return -1
            number = number << 8 | part
            parts += 1
            part = digits = 0
        elif c"0" <= at[i] <= c"9" and not (digits > 0 and part == 0):
            part = 10 * part + at[i] - c"0"
            digits += 1
            if part > 255:
                return -1
        else:
            return -1
    if parts != 3 or digits == 0:
        return -1
    return number << 8 | part
