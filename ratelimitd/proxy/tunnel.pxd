"""What a connection becomes after a 101; `tunnel.pyx` says what it promises."""

from libc.stdint cimport int64_t, uint64_t

from ratelimitd.proxy.deadlines cimport Timed
from ratelimitd.proxy.live cimport Live


cdef class End:
    cdef:
        Tunnel tunnel
        End other
        object transport
        object owner  # the protocol whose place this one takes: it hears when the connection is lost
        int bytes_slot  # counts what comes in here
        bint full  # it takes no more just now
        bint paused  # it is not read just now
        bint ended  # its peer has closed its side: nothing more will come
        bint lost

    cdef void write(self, bytes data)
    cdef void pause(self, bint pause)
    cdef void write_eof(self)
    cdef void _take(self, bytes data)


cdef class Tunnel(Timed):
    cdef:
        Live live
        readonly End client
        readonly End server
        object room  # where to read to
        Py_ssize_t most_held

    cdef void open(self, bytes early, bytes late)
    cdef void moved(self)
    cdef void _has_lost(self, End end, object error)
