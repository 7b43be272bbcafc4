"""Reading what is large; `bulk.pyx` says how."""

cdef enum:
    LARGE = 32768  # a read of which more are likely to follow
    MOST_READ = 196608
    MOST_READ_TLS = 131072  # TLS holds something itself


cdef class BulkReader:
    cdef Py_ssize_t most
    cdef readonly object data_received, eof_received, connection_lost, pause_writing, resume_writing


cdef bint read_in_bulk(object transport, object protocol, Py_ssize_t most=*) except -1
