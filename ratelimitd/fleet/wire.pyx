# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""The busy half of a link to the store: calls go out in one write, and answers that are numbers are read at once.

Promises: answers reach the tokens in the order of their calls. A token that is an `Asked` takes its numbers without
an object of Python for each; whatever else is answered, or comes in pieces, is left to `take_rest`, from its first
byte on.
"""

from collections import deque

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t

cdef enum:
    MOST_NUMBERS = 16
    MOST_DIGITS = 18


cdef const char* read_number(const char* at, char mark, int64_t* number) noexcept:
    """Behind the line at `at` that has a number behind `mark`; NULL: it is none, or not whole."""
    cdef bint negative
    cdef int digits = 0
    if at[0] != mark:
        return NULL
    at += 1
    negative = at[0] == c"-"
    at += negative
    number[0] = 0
    while c"0" <= at[digits] <= c"9" and digits <= MOST_DIGITS:
        number[0] = 10 * number[0] + at[digits] - c"0"
        digits += 1
    if digits == 0 or digits > MOST_DIGITS or at[digits] != c"\r" or at[digits + 1] != c"\n":
        return NULL
    if negative:
        number[0] = -number[0]
    return at + digits + 2


cdef const char* read_numbers(const char* at, int64_t* numbers, int64_t* count) noexcept:
    """Behind the array of numbers at `at`, of text that a NUL ends; NULL: it is none, or not whole."""
    cdef int64_t i
    at = read_number(at, c"*", count)
    if at is NULL or not 0 < count[0] <= MOST_NUMBERS:
        return NULL
    for i in range(count[0]):
        at = read_number(at, c":", &numbers[i])
        if at is NULL:
            return NULL
    return at


cdef class Asked:
    """A call that is answered by numbers."""

    cdef int take_numbers(self, const int64_t* numbers, int count) except -1:
        raise NotImplementedError


cdef class Wire:
    """`deliver(token, reply)`, `take_rest(data)` and `write` are those of the link that this is a half of."""

    def __cinit__(self):
        self.tokens = deque()
        self.commands = []

    @property
    def pending(self):
        """Calls that were not answered."""
        return len(self.tokens)

    cpdef object call(self, bytes command, object token):
        """Queues a packed command; `flush` writes it. On a link that is over it goes nowhere."""
        if not self.is_over:
            self.commands.append(command)
            self.tokens.append(token)

    cpdef object flush(self):
        """Writes what was queued, at once."""
        cdef list commands = self.commands
        if commands and self.write is not None:
            self.write(b"".join(commands))
        commands.clear()

    def data_received(self, bytes data):
        cdef const char* start = PyBytes_AS_STRING(data)
        cdef const char* at = start
        cdef const char* behind
        cdef int64_t numbers[MOST_NUMBERS]
        cdef int64_t count, i
        self.is_greeted = True
        while not (self.in_pieces or self.is_over) and self.tokens:
            behind = read_numbers(at, numbers, &count)
            if behind is NULL:
                break
            at = behind
            token = self.tokens.popleft()
            if isinstance(token, Asked):
                (<Asked>token).take_numbers(numbers, <int>count)
            else:
                self.deliver(token, [numbers[i] for i in range(count)])
        if at - start < PyBytes_GET_SIZE(data) and not self.is_over:
            self.take_rest(data[at - start :])
