# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""llhttp as the second reader of every request (through httptools).

Two parsers that read one message differently are how requests are smuggled. So llhttp, strict and in wide
use, reads what our own scan has accepted, and must find the same end: a request without a body is complete
with its head, one with a body not before the last byte of it. Where they disagree the request is refused.
"""

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from cpython.bytes cimport PyBytes_GET_SIZE


cdef class Witness:
    """One parser of llhttp, fed with what our own scan says belongs to one request."""

    def __cinit__(self):
        parser = HttpRequestParser(self)
        self._feed = parser.feed_data

    def on_message_complete(self):
        self.complete = True

    cdef bint feed(self, object data):
        """False when llhttp refuses the bytes."""
        try:
            self._feed(data)
        except HttpParserUpgrade:
            # It has read the head and would leave what follows to another protocol; we stay with HTTP.
            self.complete = self.spent = True
        except HttpParserError:
            return False
        return True


cdef class SecondReader:
    """One for a worker: while requests have no body, one parser reads them all."""

    def __cinit__(self):
        self._spare = Witness()

    cdef bint agrees(self, bytes data, Py_ssize_t start, Py_ssize_t end, bint has_body, bint keep_alive):
        """Whether llhttp accepts the head data[start:end] and sees a body exactly where we do. After True for
        one with a body, `take` gives the witness that waits for it."""
        cdef bytes head = data if start == 0 and end == PyBytes_GET_SIZE(data) else data[start:end]
        if not self._reads(head, has_body):
            # The witness may hold against this request what another client's request before it said of the
            # end of its connection: only one that has read nothing yet can refuse.
            self._spare = Witness()
            if not self._reads(head, has_body):
                self._spare = Witness()
                return False
        if self._spare.spent or not (keep_alive or has_body):
            # llhttp reads nothing behind a message that ends its connection.
            self._spare = Witness()
        return True

    cdef bint _reads(self, bytes head, bint has_body):
        cdef Witness witness = self._spare
        witness.complete = False
        return witness.feed(head) and witness.complete != has_body

    cdef Witness take(self):
        cdef Witness witness = self._spare
        self._spare = Witness()
        return witness
