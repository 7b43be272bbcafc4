"""Reading what is large; `bulk.pyx` says how."""

cdef enum:
    LARGE = 32768  # a read of which more are likely to follow
    MOST_READ = 196608


cdef class BulkReader:
    cdef readonly object data_received, eof_received, connection_lost, pause_writing, resume_writing


cdef bint read_in_bulk(object transport, object protocol) except -1
