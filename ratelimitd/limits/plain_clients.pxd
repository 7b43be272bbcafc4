"""Clients that trusted proxies name; `plain_clients.pyx` says how they are found."""

from libc.stdint cimport uint32_t

from ratelimitd.limits.addresses cimport Ipv4Ranges
from ratelimitd.limits.charges cimport Client


cdef class PlainClients:
    cdef:
        Ipv4Ranges trusted
        Ipv4Ranges allowed
        Ipv4Ranges denied
        uint32_t mask
        list known  # by place: a Client, or None
        uint32_t numbers[4096]  # theirs

    cpdef Client named(self, bytes values)
    cdef Client _make(self, uint32_t number, str address)
