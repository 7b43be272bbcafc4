"""The busy half of a link to the store; `wire.pyx` says what it promises."""

from libc.stdint cimport int64_t


cdef class Asked:
    cdef int take_numbers(self, const int64_t* numbers, int count) except -1


cdef class Wire:
    cdef:
        readonly object tokens  # deque of those whose calls were not answered, in order
        readonly list commands
        public object write  # of the transport; None: there is none
        public bint is_over
        public bint in_pieces  # an answer has begun that is not whole: the next bytes are more of it
        readonly bint is_greeted  # something was answered

    cpdef object call(self, bytes command, object token)
    cpdef object flush(self)
