# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""How a request of a client is answered, and what becomes of its connection then.

The answer is the upstream's, passed on as it comes, or one of our own. Either way the request is counted
once, and then the connection is kept, closed, cut or read empty: an unread rest of a body never passes for
the next request, and a last answer is never lost to a reset. How requests come in is `client`'s business.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint64_t

from ratelimitd.http.head cimport Head
from ratelimitd.http.request cimport accepts_text, tells_rate_limit
from ratelimitd.http.upgrade cimport upgrade_lines
from ratelimitd.limits.charges cimport Client
from ratelimitd.proxy.clock cimport boottime_us
from ratelimitd.proxy.live cimport (
    CLIENT_GONE, FORWARDED, MALFORMED, SHED, TIMEOUT, UPSTREAM_ERROR, Live, Outcome, Policy,
)
from ratelimitd.proxy.logged cimport Logged
from ratelimitd.proxy.reset cimport reset
from ratelimitd.proxy.tunnel cimport End, Tunnel
from ratelimitd.proxy.unread cimport has_unread
from ratelimitd.proxy.upstream cimport Connection

from ratelimitd.proxy.balancing import hash_client

cdef enum:
    SPAN_BYTES = 16384  # what a body must move in each span of `timeouts.body`
    DISCARD_MS = 1000
    LINGER_MS = 2000
    UNREAD_MS = 1000  # for reading what had come before a connection was idle for too long

cdef bytes NOTHING = b""


cdef class Exchange(Logged):
    """A client's connection, seen from the request that is in work on it."""

    cdef void serve(self):
        """Reads on: requests that are in the buffer already."""

    # --- the answer -----------------------------------------------------------------------------------

    cdef void answer_interim(self, bytes head):
        if self.held_back and self.connection.upstream.head.status == 100:
            self._end_held_back()
        if self.minor == 1:
            self._count_out(PyBytes_GET_SIZE(head))
            self.heads_out += PyBytes_GET_SIZE(head)
            self.write(head)

    cdef void answer_begins(self, Head head, bytes data, Py_ssize_t body_end, bint until_close, bint whole):
        cdef bytes added = NOTHING
        cdef bytes answer
        self.request = None
        self.state = ANSWERING
        self.status = head.status
        self.answered_us = self.connection.answered_us
        self.until_close = until_close
        self.closes = until_close or not self.keep_alive or self._leaves_body() or self.live.draining
        if PyBytes_GET_SIZE(self.rate_lines) and not tells_rate_limit(head):
            added = self.rate_lines
        if self.closes:
            added += b"Connection: close\r\n"
        elif self.minor == 0:
            added += b"Connection: keep-alive\r\n"
        answer = head.render(None, added, body_end)
        self._count_out(PyBytes_GET_SIZE(answer))
        self.heads_out += PyBytes_GET_SIZE(answer) - (body_end - head.end)
        self.write(answer)
        if whole:
            self._answered()
        elif self.route.streaming and not (self.write_paused or self.ended):
            self.live.wheel.clear(self)  # it may idle
        else:
            self.moved = 0
            self.live.wheel.set(self, self.policy.body_ms)

    cdef void answer_goes_on(self, bytes data, bint whole):
        cdef Py_ssize_t n = PyBytes_GET_SIZE(data)
        self.answered_us = self.connection.answered_us
        self.moved += n
        if n:
            self._count_out(n)
            self.write(data)
        if whole:
            self._answered()

    cdef void _answered(self):
        if self.body_left:
            # The rest of the request will not be sent: the server would take another one for it.
            self.connection.keep = False
        self.connection.release()
        self.end_request(FORWARDED)
        self._settle(self.closes, False)

    cdef void answer_fails(self, int status, str detail):
        cdef bytes added = b"Retry-After: 1\r\n" if status == 503 else NOTHING
        self.reply(status, detail, UPSTREAM_ERROR, None, added, False, False)

    cdef void prepare_choice(self, Head head, Client client):
        """What the choice of a server needs to know of the request, where it needs to."""
        self.priority = self.route.priority
        if self.route.upstream.bounded:
            self.as_text = accepts_text(head)
        if self.route.upstream.by_client:
            self.client_hash = hash_client(client.key_bytes)

    cdef void turned_away(self):
        self.reply(
            self.policy.shed_status,
            "the web servers have more to do than they can just now: try again after the time in Retry-After",
            SHED, None, self.live.gate.retry_after(), False, self.as_text,
        )

    cdef void answer_is_cut(self, str detail):
        self.end_request(UPSTREAM_ERROR)
        self.cut_answer()

    cdef void protocol_switches(self, Head head, bytes protocols, bytes data):
        """The request is answered, and counted, by the 101; its places are held until the tunnel ends."""
        cdef Connection connection = self.connection
        cdef bytes early = self.buffer[self.at :]
        cdef bytes answer = head.render(None, self.rate_lines + upgrade_lines(protocols), head.end)
        cdef int held_count
        self.status = head.status
        self.answered_us = connection.answered_us
        self.heads_out += PyBytes_GET_SIZE(answer)
        self._count_out(PyBytes_GET_SIZE(answer))
        self.write(answer)
        self.held_count, held_count = 0, self.held_count
        self.end_request(FORWARDED)
        self.held_count = held_count
        self.state = TUNNEL
        self.live.slots[self.listener.idle_slot] -= 1
        self.live.slots[self.listener.tunnel_slot] += 1
        self.live.wheel.clear(self)
        self.buffer = NOTHING
        client = End(self.transport, self, self.live.bytes_in_slot, self.write_paused, self.ended)
        server = End(connection.transport, connection, self.live.bytes_out_slot, connection.full, False)
        Tunnel(self.live, client, server).open(early, data[head.end :])

    cdef void _leave_tunnel(self):
        self._give_places_back()
        self.live.slots[self.listener.tunnel_slot] -= 1
        self.live.slots[self.listener.idle_slot] += 1

    def pause_writing(self):
        self.write_paused = True
        if self.connection is not None:
            self.connection.pause(True)
            self.bound_stream()

    cdef void bound_stream(self):
        """What idles now is the client, or it has left: a stream, too, must move."""
        if self.state == ANSWERING and self.route.streaming:
            self.moved = 0
            self.live.wheel.set(self, self.policy.body_ms)

    def resume_writing(self):
        self.write_paused = False
        if self.connection is not None:
            self.connection.pause(False)
            if self.state == ANSWERING and self.route.streaming and not self.ended:
                self.live.wheel.clear(self)
        elif self.state == IDLE and self.policy is not None:
            self.live.wheel.set(self, self.policy.idle_ms)
        self.serve()

    # --- replies of our own, and what follows a request -------------------------------------------------

    cdef void reply(
        self, int status, str detail, Outcome outcome, str limit, bytes added, bint unreadable, bint as_text
    ):
        """Answers the request in work by ourselves. `unreadable`: nothing behind it can be trusted."""
        cdef bint close
        cdef bytes answer
        if self.body_left and not unreadable:
            unreadable = not self.read_body(False)
        close = unreadable or not self.keep_alive or self.live.draining or self._leaves_body()
        if self.minor == 0 and not close:
            added += b"Connection: keep-alive\r\n"
        reply = self.policy.replies.get(status, detail, limit=limit, shed=outcome == SHED, as_text=as_text)
        answer = reply.render(self.live.date_line + added, close=close, head_only=self.is_head)
        self._count_out(PyBytes_GET_SIZE(answer))
        self.status = status
        if self.policy.log is not None:
            self.limit = limit
            if self.request_id is None:
                self.request_id = self.policy.forwarding.id_of_refused(None, False)
            self.heads_out += answer.find(b"\r\n\r\n") + 4
        self.write(answer)
        self.end_request(outcome)
        self._settle(close, unreadable)

    cdef void begin_request(self, Policy policy):
        """From here on there is a request that will be counted; what it is, is not known yet."""
        self.policy = policy
        self.body_left = 0
        self.is_head = self.expects_continue = False
        self.keep_alive = True
        self.was_overdue = False
        self.minor = 1
        self.route = None
        self.server = None
        self.status = 0
        self.bytes_in = PyBytes_GET_SIZE(self.buffer) - self.at
        self.bytes_out = self.heads_out = 0
        self.decided_us = 0
        self.live.slots[self.listener.idle_slot] -= 1
        self.live.slots[self.listener.active_slot] += 1

    cdef void end_request(self, Outcome outcome):
        """Counts the request in work, once."""
        cdef Live live = self.live
        cdef int64_t duration_us
        cdef uint64_t now_us = 0
        self.request = None
        self._give_places_back()
        live.slots[self.listener.outcome_slot + outcome] += 1
        live.slots[self.listener.active_slot] -= 1
        live.slots[self.listener.idle_slot] += 1
        if outcome == FORWARDED:
            now_us = boottime_us()
            duration_us = now_us - self.started_us
            live.observe(self.route.upstream.duration_slot, live.request_bounds, live.request_bound_count, duration_us)
            duration_us -= self.answered_us - self.asked_us
            live.observe(live.overhead_slot, live.overhead_bounds, live.overhead_bound_count, duration_us)
        if self.policy.log is not None:
            self.log(outcome, now_us or boottime_us())

    cdef void _give_places_back(self):
        cdef int i
        for i in range(self.held_count):
            self.live.inflight.leave(self.held[i])
        self.held_count = 0

    cdef void _count_out(self, Py_ssize_t n) noexcept:
        self.live.slots[self.live.bytes_out_slot] += n
        self.bytes_out += n

    cdef void _settle(self, bint close, bint unreadable):
        """The request is answered: what becomes of the connection, and of what was not read of a body."""
        if close:
            if self.body_left or unreadable or self.at < PyBytes_GET_SIZE(self.buffer):
                self.linger()
            else:
                self._close()
        elif self.body_left:
            self.state = DISCARDING
            self.moved = 0
            self.live.wheel.set(self, DISCARD_MS)
            self.pause_reading(False)
        else:
            self.await_next()

    # --- the body of the request ------------------------------------------------------------------------

    cdef bint read_body(self, bint wanted):
        """Reads on in the body, as far as it is in the buffer; False: it is none."""
        cdef Py_ssize_t reach = self.body.feed(self.buffer, self.at, wanted)
        if reach < 0:
            return False
        self.moved += reach - self.at
        self.bytes_in += reach - self.at
        self.resume = self.at = reach
        self.body_left = self.body.left
        return True

    cdef void _end_held_back(self):
        """The body was asked for, or comes without: it must move from now on."""
        self.held_back = False
        self.live.wheel.set(self, self.policy.body_ms)

    cdef bint _leaves_body(self) noexcept:
        """Whether more of the body is to come than can be read and thrown away, or perhaps none of it."""
        return self.body_left > 0 and (self.body_left > MOST_DISCARDED or self.expects_continue)

    cdef void await_next(self):
        """Ready for the next request, which may be in the buffer already."""
        self.state = IDLE
        if self.live.draining and self.at == PyBytes_GET_SIZE(self.buffer):
            self._close()  # its answer had begun, and said nothing of an end, before the worker was to drain
            return
        if PyBytes_GET_SIZE(self.buffer) - self.at <= MOST_PIPELINED:
            self.pause_reading(False)
        if self.write_paused:
            self._await_sent()
        else:
            self.live.wheel.set(self, self.policy.idle_ms)
        if self.at < PyBytes_GET_SIZE(self.buffer) or self.ended:
            self.started_us = boottime_us()
            self.serve()

    cdef void linger(self):
        """Half-close and read on for a while: data that meets a closed socket would make the peer's system
        throw our last answer away (RFC 9112, 9.6)."""
        if self.ended:
            self._close()
            return
        self.state = LINGERING
        self.live.wheel.set(self, LINGER_MS)
        self.pause_reading(False)
        if self.transport.can_write_eof():
            self.transport.write_eof()

    cdef void _close(self):
        """Ends the connection when all that was written is sent."""
        self.state = CLOSED
        self._await_sent()
        self.transport.close()

    cdef void _await_sent(self):
        """A client must go on reading what was written for it."""
        self.unsent = self.transport.get_write_buffer_size()
        self.live.wheel.set(self, self.live.policy.body_ms)

    cdef void cut(self):
        """Ends the connection so that the client notices: what it has got is not all."""
        self.state = CLOSED
        self.transport.abort()

    cdef void cut_answer(self):
        """Ends an answer that has begun and will not be finished. Where its end is that of the connection, a
        reset is all that tells the client."""
        if self.until_close:
            self.state = CLOSED
            reset(self.transport)
        else:
            self.cut()

    cdef void pause_reading(self, bint pause):
        if pause != self.reading_paused:
            self.reading_paused = pause
            if pause:
                self.transport.pause_reading()
            elif not self.waits_turn:
                self.transport.resume_reading()

    cdef void drop_upstream(self):
        """Nobody wants the upstream's answer any more."""
        self.leave_upstream(self.body_left == 0)
        self.request = self.parts = None

    # --- time ---------------------------------------------------------------------------------------------

    cdef void expire(self):
        """The deadline of the state is over."""
        cdef bint moving = self.moved >= SPAN_BYTES
        if self.state == HEAD:
            self.begin_request(self.live.policy)
            self.reply(408, "the head of the request took too long", TIMEOUT, None, NOTHING, True, False)
        elif (self.state == BODY or self.state == ANSWERING or (self.state == ASKED and self.body_left)) and moving:
            self.moved = 0
            self.live.wheel.set(self, self.policy.body_ms)
        elif self.state == BODY or (self.state == ASKED and self._is_slow_client()):
            self.drop_upstream()
            self.reply(408, "the body of the request took too long", TIMEOUT, None, NOTHING, True, False)
        elif self.state == ASKED:
            self.drop_upstream()
            self.reply(504, "the web server did not answer in time", TIMEOUT, None, NOTHING, False, False)
        elif self.state == ANSWERING:
            self.drop_upstream()
            self.end_request(TIMEOUT)
            self.cut_answer()
        elif self.state == DISCARDING:
            self.linger()
        elif 0 < self.transport.get_write_buffer_size() <= self.unsent - SPAN_BYTES:
            self._await_sent()
        elif self.state == LINGERING and self.transport.get_write_buffer_size():
            self._close()
        elif self.state >= LINGERING:
            self.cut()
        elif self.state == IDLE and not self.was_overdue and has_unread(self.transport):
            # It came in time, perhaps, and the loop stood still: closed now, it would be met by a reset.
            self.was_overdue = True
            self.live.wheel.set(self, UNREAD_MS)
        else:
            self._close()

    cdef bint _is_slow_client(self) noexcept:
        """Whether the body is overdue by the client's fault: it is the web server's while that takes no more of
        it, or has not asked for it."""
        return self.body_left > 0 and not self.reading_paused and not self.held_back

    def idle_since_us(self):
        """When it was last used, if it is between two requests or before the first; else 0."""
        if self.state != IDLE or self.at < PyBytes_GET_SIZE(self.buffer):
            return 0
        return max(self.started_us, self.answered_us)

    def close_if_idle(self):
        """For a worker that drains, or is short of descriptors; whether it was idle: no request has come, read or
        not."""
        cdef bint idle = self.idle_since_us() > 0 and not has_unread(self.transport)
        if idle:
            self._close()
        return idle
