# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""Reading what is large: from the first large read on a connection reads into room of a bounded size.

A read of the event loop's own is up to 250 KiB, and all of it stays in memory while one byte of it is not taken.
A connection may hold 256 KiB with all that belongs to it, so the room is smaller; it is no smaller than need be,
since each piece wakes its receiver. What fills the room by half or more is passed on where it lies; less is copied,
so that nothing small holds on to a large room. Small messages never pay for this.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.ref cimport Py_DECREF, PyObject

cdef extern from "Python.h":
    PyObject* new_bytes "PyBytes_FromStringAndSize" (const char* text, Py_ssize_t size) except NULL
    int PyBUF_WRITE
    int _PyBytes_Resize(PyObject** text, Py_ssize_t size) except -1

# The room of the next read, one for a worker, and how the event loop sees it. Nobody else knows these bytes yet.
cdef PyObject* room = NULL  # NULL: it was given away, full
cdef object view = None


cdef class BulkReader:
    """A buffered asyncio protocol that stands between a transport and its own protocol."""

    def __init__(self, protocol):
        self.data_received = protocol.data_received
        self.eof_received = protocol.eof_received
        self.connection_lost = protocol.connection_lost
        self.pause_writing = protocol.pause_writing
        self.resume_writing = protocol.resume_writing

    def get_buffer(self, sizehint):
        global room, view
        if room is NULL:
            room = new_bytes(NULL, MOST_READ)
            view = PyMemoryView_FromMemory(PyBytes_AS_STRING(<bytes>room), MOST_READ, PyBUF_WRITE)
        return view if self.most == MOST_READ else view[: self.most]

    def buffer_updated(self, Py_ssize_t nbytes):
        self.data_received(taken(nbytes))


cdef bytes taken(Py_ssize_t size):
    """The first `size` bytes of the room."""
    global room, view
    cdef PyObject* given = room
    cdef bytes data
    if size < MOST_READ // 2:
        return PyBytes_FromStringAndSize(PyBytes_AS_STRING(<bytes>room), size)
    room, view = NULL, None
    _PyBytes_Resize(&given, size)
    data = <bytes>given
    Py_DECREF(data)  # `data` holds the reference now
    return data


cdef bint read_in_bulk(object transport, object protocol, Py_ssize_t most=MOST_READ) except -1:
    """From now on `protocol` gets what `transport` reads in pieces of so many bytes at most. True."""
    cdef BulkReader reader = BulkReader(protocol)
    reader.most = most
    transport.set_protocol(reader)
    if transport.is_reading():  # it asks how to read when it starts
        transport.pause_reading()
        transport.resume_reading()
    return True
