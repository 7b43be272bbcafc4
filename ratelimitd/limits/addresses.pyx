# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""An IPv4 address in the spelling that nearly all have, read and looked up at once; `keys` has all the others.

Four numbers to 255 without leading zeros, which some read as octal. A set of ranges is looked through for each
client that was not seen of late, so it is one array that no other object of Python lies between.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport int64_t, uint32_t


cpdef int64_t plain_ipv4(bytes text) noexcept:
    """The number of the address; -1 for anything else."""
    return read_ipv4(PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))


cdef int64_t read_ipv4(const char* at, Py_ssize_t size) noexcept:
    """The number of the address in `size` bytes; -1 for anything else."""
    cdef Py_ssize_t i
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


@cython.final
cdef class Ipv4Ranges:
    """Ranges of addresses, as their first and last numbers: in order, and none touches another."""

    def __cinit__(self, list firsts not None, list lasts not None):
        self.bounds = <uint32_t*>PyMem_Malloc(max(1, 2 * len(firsts)) * sizeof(uint32_t))
        if self.bounds is NULL:
            raise MemoryError
        for first, last in zip(firsts, lasts, strict=True):
            self.bounds[2 * self.count], self.bounds[2 * self.count + 1] = first, last
            self.count += 1

    def __dealloc__(self):
        PyMem_Free(self.bounds)

    def __contains__(self, uint32_t number):
        return self.has(number)

    cdef bint has(self, uint32_t number) noexcept:
        cdef Py_ssize_t low = 0, high = self.count, middle
        while low < high:  # `low`: how many begin at or before the number
            middle = (low + high) // 2
            if self.bounds[2 * middle] <= number:
                low = middle + 1
            else:
                high = middle
        return low > 0 and number <= self.bounds[2 * low - 1]
