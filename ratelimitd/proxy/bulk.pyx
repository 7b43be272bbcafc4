# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""Reading what is large: from the first large read on a connection reads into one room, which all share.

A read of the event loop's own is up to 250 KiB, and all of it stays in memory while one byte of it is not taken.
A connection may hold 256 KiB with all that belongs to it, so the room is smaller; it is no smaller than need be,
since each piece wakes its receiver. Small messages never pay for this.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_FromStringAndSize

# One for a worker: what was read is copied out before anything else is read.
cdef bytearray ROOM = bytearray(MOST_READ)
cdef object VIEW = memoryview(ROOM)


cdef class BulkReader:
    """A buffered asyncio protocol that stands between a transport and its own protocol."""

    def __init__(self, protocol):
        self.data_received = protocol.data_received
        self.eof_received = protocol.eof_received
        self.connection_lost = protocol.connection_lost
        self.pause_writing = protocol.pause_writing
        self.resume_writing = protocol.resume_writing

    def get_buffer(self, sizehint):
        return VIEW

    def buffer_updated(self, Py_ssize_t nbytes):
        self.data_received(PyBytes_FromStringAndSize(PyByteArray_AS_STRING(ROOM), nbytes))


cdef bint read_in_bulk(object transport, object protocol) except -1:
    """From now on `protocol` gets what `transport` reads in pieces of MOST_READ at most. True."""
    transport.set_protocol(BulkReader(protocol))
    if transport.is_reading():  # it asks how to read when it starts
        transport.pause_reading()
        transport.resume_reading()
    return True
