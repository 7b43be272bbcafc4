# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""How an admitted request goes up: at once, with its small body when that is whole, or with its body behind it.

A server sees the end of a body only when it was one to its end. What is broken, too large or cut short ends
the exchange on both sides: the server's connection is closed in the middle of the message, the client gets 400
or 413, or a cut connection when an answer has begun. A server that takes no more stops the client. How a body
is read is `http/request_body`'s business.
"""

from cpython.bytes cimport PyBytes_GET_SIZE
from libc.stdint cimport uint64_t

from ratelimitd.http.head cimport TRANSFER_ENCODING, Head
from ratelimitd.http.request cimport origin_line
from ratelimitd.proxy.clock cimport boottime_us
from ratelimitd.proxy.exchange cimport ANSWERING, ASKED, BODY, DISCARDING, MOST_DISCARDED, Exchange
from ratelimitd.proxy.live cimport CLIENT_GONE, MALFORMED, Policy

cdef bytes NOTHING = b""
BODY_TOO_LARGE = "the body is larger than bounds.body"


cdef class Upload(Exchange):
    """A client's connection, seen from the request that goes up on it."""

    cdef void refuse(self, int status, str detail):
        """For what is malformed: nothing behind it can be trusted, so the connection ends."""
        self.reply(status, detail, MALFORMED, None, NOTHING, True, False)

    cdef void forward_with_body(self, Head head, bytes lines):
        """A small body of a told length is read before a server is chosen; all else goes up as it comes."""
        cdef Policy policy = self.policy
        cdef bint chunked = head.chunked
        cdef bint as_it_comes = (
            chunked or self.expects_continue or self.route.streaming or self.body_left > policy.buffer_bound
        )
        if chunked:
            head.drop_all(TRANSFER_ENCODING)  # in whatever case it came
            lines += b"Transfer-Encoding: chunked\r\n"
        self.request = head.render(origin_line(head), lines, head.end)
        self.moved = 0
        self.live.wheel.set(self, policy.body_ms)
        self.state = ASKED if as_it_comes else BODY
        if not self.read_body(True):
            self.refuse(400, self.body.fault)
        elif self.body.length() > <uint64_t>policy.body_bound:
            self.refuse(413, BODY_TOO_LARGE)
        else:
            self.parts = [self.request, self.body.part(self.buffer, head.end, self.at)]
            if self.body_left:
                if self.ended:
                    self.end_within_body()
                    return
                self.pause_reading(False)  # all that came too early has been used up
            self.held_back = self.expects_continue and self.body_left and self.at == head.end
            if as_it_comes or self.body_left == 0:
                self._send_parts()

    cdef void _send_parts(self):
        self.request = b"".join(self.parts)
        self.parts = None
        self.request_whole = self.body_left == 0
        self.state = ASKED
        self.send()

    cdef void take_body(self):
        """More of the body that is in work; what lies beyond it is the next request."""
        cdef bytes part
        if self.state == DISCARDING:
            self._throw_away()
        elif not self.read_body(True):
            self._end_in_body(400, self.body.fault)
        elif self.body.length() > <uint64_t>self.policy.body_bound:
            self._end_in_body(413, BODY_TOO_LARGE)
        else:
            part = self.body.part(self.buffer, 0, self.at)
            if self.held_back and self.state == ASKED:
                self._end_held_back()
            if self.state == BODY:
                self.parts.append(part)
                if self.body_left == 0:
                    self._send_parts()
                return
            if self.connection is None:
                self.request += part
                self.request_whole = self.body_left == 0
            elif PyBytes_GET_SIZE(part):
                self.connection.write(part)
            if self.body_left == 0 and self.state == ASKED:
                self.live.wheel.set(self, self.policy.response_ms)

    cdef void _end_in_body(self, int status, str detail):
        """What came of the body ends the exchange: the server must not take it for a whole request."""
        self.drop_upstream()
        if self.state == ANSWERING:
            self.end_request(MALFORMED)
            self.cut_answer()
        else:
            self.refuse(status, detail)

    cdef void _throw_away(self):
        """More came of a body that nobody wants."""
        cdef bint readable = self.read_body(False)
        if readable and self.body_left == 0:
            self.await_next()
        elif not readable or self.moved > MOST_DISCARDED:
            self.linger()

    cdef bint end_within_body(self):
        """The client has closed its side before its request was whole. True: it is answered all the same."""
        if self.state == ANSWERING:
            return False
        self.ended = True
        self.drop_upstream()
        self.reply(400, "the connection ended within the body", CLIENT_GONE, None, NOTHING, True, False)
        return True

    cdef void send(self):
        """Asks the upstream; the clock of the answer runs from the end of the request."""
        if self.body_left == 0 or self.held_back:
            self.live.wheel.set(self, self.policy.response_ms)
        self.asked_us = boottime_us()
        self.route.upstream.send(self)
        if self.body_left and self.state == ASKED:
            if self.connection is None:
                self.pause_reading(True)
            else:
                self.request = None  # with more to come it cannot be sent again

    cdef void upstream_is_open(self):
        if self.body_left:
            self.request = None
            self.pause_reading(self.connection.full)

    cdef void upstream_is_full(self, bint full):
        if self.body_left:
            self.pause_reading(full)
