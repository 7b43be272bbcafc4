"""The second opinion on every request; `second_reader.pyx` says what must agree."""


cdef class Witness:
    cdef:
        object _feed
        object _method
        readonly bint complete
        bint spent

    cdef bint feed(self, object data)


cdef class SecondReader:
    cdef:
        Witness _spare

    cdef bint _reads(self, bytes head, bint has_body)
    cdef bint agrees(self, bytes data, Py_ssize_t start, Py_ssize_t end, bint has_body, bint keep_alive)
    cdef Witness take(self)
