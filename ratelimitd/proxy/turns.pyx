# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""Turns: clients that send much at once wait in between, so that a turn of the worker's loop stays short.

The loop takes up to 32 full reads of a connection in a row, from each one that has them, and of one read
thousands of requests may follow that are answered here. So what all connections may read and ask in a turn is
bounded; who goes beyond it is not read until its turn comes again, behind those who wait already. Nobody else
notices: a request that comes alone is served at once, and a single upload is as fast.
"""

import collections

cdef enum:
    REQUESTS = 64  # of connections that had one already
    READ = 262144


cdef class Turns:
    """Of one worker; `call_soon` is that of its loop."""

    def __init__(self, call_soon):
        self.call_soon = call_soon
        self.waiting = collections.deque()
        self.requests_left = REQUESTS
        self.bytes_left = READ

    cdef bint has_request(self):
        """Whether one request more may be served in this turn, of a connection that had one."""
        self._will_end()
        self.requests_left -= 1
        return self.requests_left >= 0

    cdef bint has_bytes(self, Py_ssize_t count):
        """Whether more may be read in this turn of the connection that has just brought so many bytes."""
        self._will_end()
        self.bytes_left -= count
        return self.bytes_left >= 0

    cdef void wait(self, object connection):
        """`connection.go_on` is called when its turn comes."""
        self._will_end()
        self.waiting.append(connection)

    cdef void _will_end(self):
        if not self.ends:
            self.ends = True
            self.call_soon(self._end)

    def _end(self):
        self.ends = False
        self.requests_left = REQUESTS
        self.bytes_left = READ
        if self.waiting:
            self._will_end()
            self.waiting.popleft().go_on()  # one: it may bring a read of 250 KiB
