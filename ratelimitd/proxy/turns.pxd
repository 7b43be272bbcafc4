"""Whose turn it is; `turns.pyx` says what it promises."""


cdef class Turns:
    cdef:
        object call_soon
        object waiting  # connections that nothing is read from, first come first served
        int requests_left  # in this turn, of all connections
        Py_ssize_t bytes_left
        bint ends  # the end of this turn will be told

    cdef bint has_request(self)
    cdef bint has_bytes(self, Py_ssize_t count)
    cdef void wait(self, object connection)
    cdef void _will_end(self)
