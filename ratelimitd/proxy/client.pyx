# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""The side of the clients: the way of a request, in the order in which it is gone.

bytes -> head (`_read_request`) -> who asks and what for (`_admit`) -> may it pass (`_decide`) -> forwarded
(`_forward`, `_send`) -> answered (`answer_*`) -> the next one (`_await_next`). Callbacks only: no task, future or
timer, and one write for what fits into one. Requests of a connection are served one after the other; what
comes early waits. A reply of our own never lets the unread rest of a body pass for a request.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint64_t

from ratelimitd.http.head cimport RATELIMIT, RATELIMIT_POLICY, Head
from ratelimitd.http.second_reader cimport Witness
from ratelimitd.limits.decision cimport ADMIT, AGAIN, AMBIGUOUS, DENY, LIMIT, Decision
from ratelimitd.proxy.clock cimport boottime_us
from ratelimitd.proxy.live cimport (
    CLIENT_GONE, DENIED, FORWARDED, LIMITED, MALFORMED, TIMEOUT, UPSTREAM_ERROR, Listener, Live, Outcome, Policy,
    Route,
)
from ratelimitd.proxy.upstream cimport Downstream

from ratelimitd.errors import ClientFault
from ratelimitd.http.head import METHODS
from ratelimitd.http.replies import wants_text
from ratelimitd.http.target import RequestText, normal_host, normal_path

cdef enum:
    IDLE  # between requests
    HEAD  # part of a head is there
    BODY  # the body is read before a server is chosen
    ASKED  # the request is with the upstream, or on its way there
    ANSWERING
    DISCARDING  # the rest of a body that nobody wants
    LINGERING  # we have said our last word, and read so that it is not reset away
    CLOSED

    MOST_PIPELINED = 65536
    MOST_DISCARDED = 65536
    SPAN_BYTES = 16384  # what a body must move in each span of `timeouts.body`
    DISCARD_MS = 1000
    LINGER_MS = 2000

# Sent twice, they do what they do once (RFC 9110, 9.2.2); TRACE is of no use here.
cdef frozenset IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"))
cdef bytes NOTHING = b""


cdef class ClientConnection(Downstream):
    """A client's connection: an asyncio protocol."""

    def __init__(self, Listener listener):
        self.listener = listener
        self.live = listener.live
        self.buffer = NOTHING

    def connection_made(self, transport):
        cdef Policy policy = self.live.policy
        peer = transport.get_extra_info("peername")
        self.transport = transport
        self.write = transport.write
        self.peer = peer[0] if type(peer) is tuple else "unix"
        self.live.slots[self.listener.idle_slot] += 1
        self.live.connections.add(self)
        if len(self.live.connections) > policy.connections_bound:
            self.live.slots[self.live.refused_total_slot] += 1
            self._cut()
            return
        self.live.wheel.set(self, policy.head_ms)

    def connection_lost(self, error):
        if self.state == ASKED or self.state == ANSWERING or self.state == BODY:
            self._drop_exchange()
            self._end_request(CLIENT_GONE)
        self.state = CLOSED
        self.live.slots[self.listener.idle_slot] -= 1
        self.live.wheel.forget(self)
        self.live.connections.discard(self)

    def data_received(self, bytes data):
        self.live.slots[self.live.bytes_in_slot] += PyBytes_GET_SIZE(data)
        if self.state == IDLE or self.state == HEAD:
            if PyBytes_GET_SIZE(self.buffer) == 0:
                self.started_us = boottime_us()
                self.buffer = data
                self.at = self.resume = 0
            else:
                self.buffer += data
            self._serve()
        elif self.body_left and self.state != LINGERING and self.state != CLOSED:
            self.buffer = data
            self.at = 0
            self._take_body(data)
        elif self.state < LINGERING:
            self.buffer += data
            if PyBytes_GET_SIZE(self.buffer) - self.at > MOST_PIPELINED:
                self._pause(True)

    def eof_received(self):
        if self.state == IDLE or self.state == HEAD or self.state >= DISCARDING or self.body_left:
            return False
        # The request is whole: a client may close its side and still read the answer.
        self.keep_alive = False
        return True

    # --- a request comes in ---------------------------------------------------------------------------

    cdef void _serve(self):
        """Serves what is in the buffer, one request after the other, as far as it goes at once."""
        if self.serving:
            return  # a request that was answered at once: the loop below goes on
        self.serving = True
        while self.state <= HEAD and self.at < PyBytes_GET_SIZE(self.buffer) and not self.write_paused:
            if not self._read_request():
                break
        self.serving = False
        if self.at == PyBytes_GET_SIZE(self.buffer):
            self.buffer = NOTHING
            self.at = self.resume = 0

    cdef bint _read_request(self):
        """Reads one head, and goes on with it; False when more bytes are needed."""
        cdef Policy policy = self.live.policy
        cdef Head head = policy.head
        cdef Py_ssize_t end
        cdef int status
        if self.state == IDLE and self.buffer[self.at : self.at + 2] == b"\r\n":
            self.at += 2  # RFC 9112, 2.2: an empty line before the request line is ignored
        end = head.find_end(self.buffer, self.at, &self.resume)
        if end == 0 and PyBytes_GET_SIZE(self.buffer) - self.at <= policy.head_bound:
            return self._wait_for_head(policy)
        self.state = HEAD
        self._begin_request(policy)
        if end < 0:
            self._reply(400, "a line ends in a bare LF", MALFORMED, None, NOTHING, True, False)
            return True
        if end == 0 or end - self.at > policy.head_bound:
            self._reply(431, "the head is larger than bounds.head", MALFORMED, None, NOTHING, True, False)
            return True
        status = head.parse_request(self.buffer, self.at, end, policy.target_bound)
        if status:
            self._reply(status, head.fault.decode(), MALFORMED, None, NOTHING, True, False)
            return True
        self.resume = self.at = end
        if self._admit(head):
            self._forward(head)
        return True

    cdef bint _wait_for_head(self, Policy policy):
        """Part of a head: keeps it, unless its first byte already says that this is no HTTP."""
        cdef uint8_t first
        if self.at == PyBytes_GET_SIZE(self.buffer):
            return False
        first = <uint8_t>PyBytes_AS_STRING(self.buffer)[self.at]
        if first != c"\r" and not (c"A" <= first <= c"Z" or c"a" <= first <= c"z"):
            self._begin_request(policy)
            self._reply(400, "this is no HTTP request", MALFORMED, None, NOTHING, True, False)
            return True
        if self.at:
            self.buffer = self.buffer[self.at :]
            self.resume -= min(self.resume, <size_t>self.at)
            self.at = 0
        if self.state == IDLE:
            self.state = HEAD
            self.live.wheel.set(self, policy.head_ms)
        return False

    # --- may it pass ----------------------------------------------------------------------------------

    cdef bint _admit(self, Head head):
        """The questions in order: is it a request, whose, for whom, and is it too many. False: answered."""
        cdef Policy policy = self.policy
        cdef bytes method = head.method()
        cdef object text = None
        self.minor = head.minor
        self.keep_alive = head.keep_alive
        self.is_head = head.is_head
        self.expects_continue = head.expects_continue
        self.body_left = max(head.content_length, 0)
        self.idempotent = method in IDEMPOTENT
        if not self.idempotent and method not in METHODS:
            self._reply(501, "this method is not known here", MALFORMED, None, NOTHING, True, False)
        elif method == b"CONNECT":
            self._reply(405, "this is no forward proxy: CONNECT is not served", MALFORMED, None,
                        b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n", True, False)
        elif head.chunked:
            self._reply(411, "send the body with Content-Length: chunked requests are not served by this version",
                        MALFORMED, None, NOTHING, True, False)
        elif head.upgrades and not asks_for_h2c(head):
            self._reply(501, "protocol upgrades are not served by this version", MALFORMED, None, NOTHING, True, False)
        elif not self.live.second_reader.agrees(
            self.buffer, head.start, head.end, self.body_left > 0, self.keep_alive
        ):
            self._reply(400, "the request can be read in more than one way", MALFORMED, None, NOTHING, True, False)
        else:
            if self.body_left:
                self.witness = self.live.second_reader.take()
            if self.body_left > policy.body_bound:
                self._reply(413, "the body is larger than bounds.body", MALFORMED, None, NOTHING, False, False)
                return False
            try:
                if policy.needs_text or needs_care(head):
                    text = request_text(head, method)
            except ClientFault as fault:
                self._reply(fault.status, fault.detail, MALFORMED, None, NOTHING, True, False)
                return False
            self._identify(head)
            if self.client.denied:
                self._reply(403, "this client is denied here", DENIED, None, NOTHING, False, accepts_text(head))
                return False
            self.route = self._route(policy, text)
            if self.route is None:
                self._reply(404, "no route matches this request", DENIED, None, NOTHING, False, accepts_text(head))
                return False
            return self._decide(head, text)
        return False

    cdef Route _route(self, Policy policy, object text):
        if policy.only_route is not None:
            return policy.only_route
        for route in policy.routes:
            if (<Route>route).matcher is None or (<Route>route).matcher(text):
                return <Route>route
        return None

    cdef bint _decide(self, Head head, object text):
        """Asks the limits; False: refused, and answered."""
        cdef Policy policy = self.policy
        cdef Decision decision = policy.limiter.decide(head, self.client, text, self.started_us)
        if decision == AGAIN:
            decision = policy.limiter.decide_again(boottime_us())
        if decision == ADMIT:
            self.rate_lines = policy.limiter.admitted_lines() if policy.rate_limit_fields else NOTHING
            return True
        return self._refuse_limited(head, decision)

    cdef bint _refuse_limited(self, Head head, Decision decision):
        cdef Policy policy = self.policy
        cdef str limit = policy.limiter.rules[policy.limiter.deciding].limit if policy.limiter.deciding >= 0 else None
        cdef bytes added
        if decision == LIMIT:
            added = policy.limiter.refused_lines() if policy.rate_limit_fields else (
                b"Retry-After: %d\r\n" % policy.limiter.retry_after()
            )
            self._reply(429, "too many requests: try again after the time in Retry-After", LIMITED, limit, added,
                        False, accepts_text(head))
        elif decision == DENY:
            self._reply(403, "a field that a limit counts by is missing", DENIED, limit, NOTHING, False,
                        accepts_text(head))
        elif decision == AMBIGUOUS:
            self._reply(400, "a field that a limit counts by occurs twice", MALFORMED, limit, NOTHING, True, False)
        else:
            self._reply(503, "the count is not available just now: try again", LIMITED, limit, b"Retry-After: 1\r\n",
                        False, accepts_text(head))
        return False

    cdef void _identify(self, Head head):
        """Who asks: once per connection, for a trusted proxy once per value of the believed field."""
        cdef Policy policy = self.policy
        cdef bytes field = None
        if self.client_policy is not policy:
            self.trusted = policy.identify.trusts(self.peer)
            self.peer_text = policy.identify.text(self.peer)
            self.peer_lines = policy.forwarding.peer_lines(self.peer_text, self.listener.scheme)
        elif not self.trusted:
            return
        if self.trusted:
            field = believed_values(head, policy.identify.field)
            if self.client_policy is policy and field == self.client_field:
                return
        self.client = policy.identify.client(self.peer, field)
        self.client_field = field
        self.client_policy = policy

    # --- on to the upstream ---------------------------------------------------------------------------

    cdef void _forward(self, Head head):
        """Renders the request, reads a small body to its end, and sends both."""
        cdef Policy policy = self.policy
        cdef Py_ssize_t body_end = min(PyBytes_GET_SIZE(self.buffer), head.end + self.body_left)
        cdef bytes lines = policy.forwarding.lines(
            head, self.peer_lines, self.peer_text, self.listener.scheme, self.trusted
        )
        self.request = head.render(origin_line(head), lines, body_end)
        self.at = body_end
        if self.body_left == 0:
            self.state = ASKED
            self.request_whole = True
            self._send()
            return
        if not self._witnessed(memoryview(self.buffer)[head.end : body_end]):
            self._reply(400, "the body can be read in more than one way", MALFORMED, None, NOTHING, True, False)
            return
        buffered = self.body_left <= policy.buffer_bound and not self.expects_continue
        self.body_left -= body_end - head.end
        self.request_whole = self.body_left == 0
        self.moved = 0
        self.live.wheel.set(self, policy.body_ms)
        if buffered and self.body_left:
            self.state = BODY
            self.parts = [self.request]
        else:
            self.state = ASKED
            self._send()

    cdef bint _witnessed(self, object data):
        """Whether the second reader, too, takes these bytes for this body, and for all of it when we do."""
        cdef Witness witness = self.witness
        cdef int64_t n = len(data)
        return n == 0 or (witness.feed(data) and witness.complete == (n == self.body_left))

    cdef void _take_body(self, bytes data):
        """More of the body that is in work; what lies beyond it is the next request."""
        cdef int64_t n = min(self.body_left, <int64_t>PyBytes_GET_SIZE(data))
        cdef bytes part = data if n == PyBytes_GET_SIZE(data) else data[:n]
        self.at = n
        self.resume = n
        self.moved += n
        if self.state == DISCARDING:
            self.body_left -= n
            if self.body_left == 0:
                self._await_next()
            return
        if not self._witnessed(part):
            self.body_left -= n
            self._drop_exchange()
            self._cut()
            return
        self.body_left -= n
        if self.state == BODY:
            self.parts.append(part)
            if self.body_left == 0:
                self.request = b"".join(self.parts)
                self.parts = None
                self.request_whole = True
                self.state = ASKED
                self._send()
            return
        if self.connection is not None:
            self.connection.write(part)
        else:
            self.request += part
        if self.body_left == 0 and self.state == ASKED:
            self.live.wheel.set(self, self.policy.response_ms)

    cdef void _send(self):
        """Asks the upstream; the clock of the answer runs from the end of the request."""
        if self.body_left == 0:
            self.live.wheel.set(self, self.policy.response_ms)
        self.asked_us = boottime_us()
        self.route.upstream.send(self)
        if self.state == ASKED and self.connection is None and self.body_left:
            self._pause(True)

    cdef void upstream_is_open(self):
        if self.body_left:
            self._pause(False)

    cdef void upstream_is_full(self, bint full):
        if self.body_left:
            self._pause(full)

    # --- the answer -----------------------------------------------------------------------------------

    cdef void answer_interim(self, bytes head):
        if self.minor == 1:
            self.live.slots[self.live.bytes_out_slot] += PyBytes_GET_SIZE(head)
            self.write(head)

    cdef void answer_begins(self, Head head, bytes data, Py_ssize_t body_end, bint until_close, bint whole):
        cdef bytes added = NOTHING
        cdef bytes answer
        self.request = None
        self.state = ANSWERING
        self.answered_us = self.connection.answered_us
        self.closes = until_close or not self.keep_alive or self.body_left > 0 or self.live.draining
        if PyBytes_GET_SIZE(self.rate_lines) and not tells_rate_limit(head):
            added = self.rate_lines
        if self.closes:
            added += b"Connection: close\r\n"
        elif self.minor == 0:
            added += b"Connection: keep-alive\r\n"
        answer = head.render(None, added, body_end)
        self.live.slots[self.live.bytes_out_slot] += PyBytes_GET_SIZE(answer)
        self.write(answer)
        if whole:
            self._answered()
        else:
            self.moved = 0
            self.live.wheel.set(self, self.policy.body_ms)

    cdef void answer_goes_on(self, bytes data, bint whole):
        cdef Py_ssize_t n = PyBytes_GET_SIZE(data)
        self.answered_us = self.connection.answered_us
        self.moved += n
        if n:
            self.live.slots[self.live.bytes_out_slot] += n
            self.write(data)
        if whole:
            self._answered()

    cdef void _answered(self):
        self.connection.release()
        self._end_request(FORWARDED)
        self._settle(self.closes, False)

    cdef void answer_fails(self, int status, str detail):
        cdef bytes added = b"Retry-After: 1\r\n" if status == 503 else NOTHING
        self._reply(status, detail, UPSTREAM_ERROR, None, added, False, False)

    cdef void answer_is_cut(self, str detail):
        self._end_request(UPSTREAM_ERROR)
        self._cut()

    def pause_writing(self):
        self.write_paused = True
        if self.connection is not None:
            self.connection.pause(True)

    def resume_writing(self):
        self.write_paused = False
        if self.connection is not None:
            self.connection.pause(False)
        self._serve()

    # --- replies of our own, and what follows a request -------------------------------------------------

    cdef void _reply(
        self, int status, str detail, Outcome outcome, str limit, bytes added, bint unreadable, bint as_text
    ):
        """Answers the request in work by ourselves. `unreadable`: nothing behind it can be trusted."""
        cdef int64_t here
        cdef bint close
        cdef bytes answer
        if not unreadable:
            here = min(self.body_left, <int64_t>(PyBytes_GET_SIZE(self.buffer) - self.at))
            self.at += here
            self.resume = self.at
            self.body_left -= here
        close = unreadable or not self.keep_alive or self.live.draining or (
            self.body_left > 0 and (self.body_left > MOST_DISCARDED or self.expects_continue)
        )
        if self.minor == 0 and not close:
            added += b"Connection: keep-alive\r\n"
        reply = self.policy.replies.get(status, detail, limit=limit, as_text=as_text)
        answer = reply.render(self.live.date_line + added, close=close, head_only=self.is_head)
        self.live.slots[self.live.bytes_out_slot] += PyBytes_GET_SIZE(answer)
        self.write(answer)
        self._end_request(outcome)
        self._settle(close, unreadable)

    cdef void _begin_request(self, Policy policy):
        """From here on there is a request that will be counted; what it is, is not known yet."""
        self.policy = policy
        self.body_left = 0
        self.is_head = self.expects_continue = False
        self.keep_alive = True
        self.minor = 1
        self.route = None
        self.witness = None
        self.live.slots[self.listener.idle_slot] -= 1
        self.live.slots[self.listener.active_slot] += 1

    cdef void _end_request(self, Outcome outcome):
        """Counts the request in work, once."""
        cdef Live live = self.live
        cdef int64_t duration_us
        cdef uint64_t now_us
        live.slots[self.listener.outcome_slot + outcome] += 1
        live.slots[self.listener.active_slot] -= 1
        live.slots[self.listener.idle_slot] += 1
        if outcome == FORWARDED:
            now_us = boottime_us()
            duration_us = now_us - self.started_us
            live.observe(self.route.upstream.duration_slot, live.request_bounds, live.request_bound_count, duration_us)
            duration_us -= self.answered_us - self.asked_us
            live.observe(live.overhead_slot, live.overhead_bounds, live.overhead_bound_count, duration_us)

    cdef void _settle(self, bint close, bint unreadable):
        """The request is answered: what becomes of the connection, and of what was not read of a body."""
        if close:
            if self.body_left or unreadable:
                self._linger()
            else:
                self._close()
        elif self.body_left:
            self.state = DISCARDING
            self.live.wheel.set(self, DISCARD_MS)
            self._pause(False)
        else:
            self._await_next()

    cdef void _await_next(self):
        """Ready for the next request, which may be in the buffer already."""
        self.state = IDLE
        self._pause(False)
        self.live.wheel.set(self, self.policy.idle_ms)
        if self.at < PyBytes_GET_SIZE(self.buffer):
            self.started_us = boottime_us()
            self._serve()

    cdef void _linger(self):
        """Half-close and read on for a while: data that meets a closed socket would make the peer's system
        throw our last answer away (RFC 9112, 9.6)."""
        self.state = LINGERING
        self.live.wheel.set(self, LINGER_MS)
        self._pause(False)
        if self.transport.can_write_eof():
            self.transport.write_eof()

    cdef void _close(self):
        self.state = CLOSED
        self.transport.close()

    cdef void _cut(self):
        """Ends the connection so that the client notices: what it has got is not all."""
        self.state = CLOSED
        self.transport.abort()

    cdef void _pause(self, bint pause):
        if pause != self.reading_paused:
            self.reading_paused = pause
            if pause:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    cdef void _drop_exchange(self):
        """Nobody wants the upstream's answer any more."""
        if self.connection is not None:
            self.connection.leave()
        if self.attempt is not None:
            self.attempt.asker = None
            self.attempt = None
        self.request = self.parts = None

    # --- time ---------------------------------------------------------------------------------------------

    cdef void expire(self):
        """The deadline of the state is over."""
        cdef bint moving = self.moved >= SPAN_BYTES
        if self.state == HEAD:
            self._begin_request(self.live.policy)
            self._reply(408, "the head of the request took too long", TIMEOUT, None, NOTHING, True, False)
        elif (self.state == BODY or self.state == ANSWERING or (self.state == ASKED and self.body_left)) and moving:
            self.moved = 0
            self.live.wheel.set(self, self.policy.body_ms)
        elif self.state == BODY or (self.state == ASKED and self.body_left):
            self._drop_exchange()
            self._reply(408, "the body of the request took too long", TIMEOUT, None, NOTHING, True, False)
        elif self.state == ASKED:
            self._drop_exchange()
            self._reply(504, "the web server did not answer in time", TIMEOUT, None, NOTHING, False, False)
        elif self.state == ANSWERING:
            self._drop_exchange()
            self._end_request(TIMEOUT)
            self._cut()
        elif self.state == DISCARDING:
            self._linger()
        elif self.state == LINGERING:
            self._cut()
        else:
            self._close()

    def close_if_idle(self):
        """For a worker that drains: a connection between two requests ends."""
        if self.state == IDLE and self.at == PyBytes_GET_SIZE(self.buffer):
            self._close()


cdef bint asks_for_h2c(Head head):
    """Upgrade: h2c is an offer that is declined by going on with HTTP/1.1 (RFC 9110, 7.8)."""
    cdef int at = head.find(b"upgrade")
    return at >= 0 and head.value(at).lower() == b"h2c"


cdef bint tells_rate_limit(Head head) noexcept:
    """Whether the upstream has its own RateLimit fields: those are left alone."""
    cdef int i
    for i in range(head.count):
        if head.fields[i].name == RATELIMIT or head.fields[i].name == RATELIMIT_POLICY:
            return True
    return False


cdef bint accepts_text(Head head):
    cdef int at = head.find(b"accept")
    return at >= 0 and wants_text(head.value(at))


cdef bint needs_care(Head head) noexcept:
    """Whether the target is in absolute-form, or its path has more than one spelling."""
    cdef const uint8_t* target = head.base + head.target_start
    cdef Py_ssize_t n = head.target_end - head.target_start
    cdef Py_ssize_t i
    if target[0] != c"/":
        return True
    for i in range(n):
        if target[i] == c"?":
            return False
        if target[i] == c"%" or target[i] == c"\\" or (target[i] == c"." and target[i - 1] == c"/"):
            return True
    return False


cdef bytes origin_target(Head head):
    """The target in origin-form. Raises ClientFault where an absolute one names another host than Host."""
    target = head.target()
    if target.startswith(b"/") or target == b"*":
        return target
    authority, slash, path = target.partition(b"://")[2].partition(b"/")
    authority, question, query = authority.partition(b"?")
    if b"@" in authority:
        raise ClientFault(400, "the request target holds userinfo")
    if head.host < 0 or authority.lower() != head.value(head.host).lower():
        raise ClientFault(400, "the request target and the Host field name different hosts")
    return b"/" + (question + query if question else path) if not (question and slash) else (
        b"/" + question + query + slash + path
    )


cdef bytes origin_line(Head head):
    """The request line as it is forwarded; None: as it came."""
    if head.minor == 1 and head.base[head.target_start] == c"/":
        return None
    return b"%b %b HTTP/1.1\r\n" % (head.method(), origin_target(head))


cdef object request_text(Head head, bytes method):
    target = origin_target(head)
    host = normal_host(head.value(head.host)) if head.host >= 0 else ""
    path = normal_path(target) if target.startswith(b"/") else "*"

    def header(name):
        at = head.find(name.encode("latin-1"))
        return None if at < 0 else head.value(at).decode("latin-1")

    return RequestText(method.decode("ascii"), host, path, header)


cdef bytes believed_values(Head head, bytes name):
    """All values of the believed field, joined as one list; None without any."""
    cdef int at
    if name is None:
        return None
    values = []
    at = head.find(name)
    while at >= 0:
        values.append(head.value(at))
        at = head.find_next(name, at)
    return b",".join(values) if values else None
