"""Connections that begin with a PROXY header; `proxy_header.pyx` says what it promises."""

from libc.stdint cimport uint64_t

from ratelimitd.proxy.admission cimport Entries
from ratelimitd.proxy.deadlines cimport Timed
from ratelimitd.proxy.live cimport HandshakeFailure, Listener, Live


cdef class ProxyHeaderReader(Timed):
    cdef:
        Listener listener
        Live live
        object follow
        object transport
        bytes buffer
        uint64_t started_us
        Entries entries

    cdef void _refuse(self, HandshakeFailure failure)
    cdef void _leave(self)
