# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""The clients that trusted proxies name by plain IPv4 addresses, as nearly all are: found and made without Python.

A place for each of some thousand addresses, by their hash: who was seen last in a place is known there. Whoever is
not, is made in a microsecond, so that a crowd of new clients costs little more than one that is known.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t

from ratelimitd.limits.addresses cimport Ipv4Ranges, read_ipv4
from ratelimitd.limits.charges cimport Client

cdef enum:
    PLACE_BITS = 12

cdef extern from "Python.h":
    str PyUnicode_DecodeLatin1(const char* text, Py_ssize_t n, const char* errors)

cdef extern from "string.h" nogil:
    void* memrchr(const void* text, int byte, size_t n)


cdef inline bint is_space(char byte) noexcept:
    return byte == c" " or byte == c"\t"


@cython.final
cdef class PlainClients:
    """`trusted` are the proxies', `allowed` and `denied` those of the configuration, `prefix` is how many bits of an
    address stand for a client."""

    def __cinit__(
        self, Ipv4Ranges trusted not None, Ipv4Ranges allowed not None, Ipv4Ranges denied not None, int prefix
    ):
        self.trusted, self.allowed, self.denied = trusted, allowed, denied
        self.mask = <uint32_t>0xFFFFFFFF << (32 - prefix) if prefix else 0
        self.known = [None] * (1 << PLACE_BITS)

    cpdef Client named(self, bytes values):
        """The client whom the last of `values`, a list as in X-Forwarded-For, names; None: it is no plain address, or
        that of another trusted proxy."""
        cdef const char* start = PyBytes_AS_STRING(values)
        cdef const char* end = start + PyBytes_GET_SIZE(values)
        cdef const char* comma = <const char*>memrchr(start, c",", end - start)
        cdef uint32_t place
        cdef int64_t number
        cdef Client client
        if comma is not NULL:
            start = comma + 1
        while start < end and is_space(start[0]):
            start += 1
        while start < end and is_space((end - 1)[0]):
            end -= 1
        number = read_ipv4(start, end - start)
        if number < 0 or self.trusted.has(<uint32_t>number):
            return None
        place = <uint32_t>number * <uint32_t>2654435769U >> (32 - PLACE_BITS)
        client = self.known[place]
        if client is None or self.numbers[place] != <uint32_t>number:
            client = self._make(<uint32_t>number, PyUnicode_DecodeLatin1(start, end - start, NULL))
            self.known[place], self.numbers[place] = client, <uint32_t>number
        return client

    cdef Client _make(self, uint32_t number, str address):
        cdef Client client = Client.__new__(Client)
        cdef uint32_t kept = number & self.mask
        cdef char key[5]
        cdef int i
        key[0] = c"4"  # as keys.ipv4_bytes has it
        for i in range(4):
            key[1 + i] = <char>(kept >> (24 - 8 * i) & 0xFF)
        client.address = address
        client.key_bytes = PyBytes_FromStringAndSize(key, sizeof(key))
        client.allowed = self.allowed.has(number)
        client.denied = self.denied.has(number)
        return client
