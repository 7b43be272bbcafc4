# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""The side of the clients: the way of a request, in the order in which it is gone.

bytes -> head (`_read_request`) -> who asks and what for (`_admit`) -> may it pass (`_shed`, `_decide`) -> forwarded
(`_forward`, `_send`); `exchange` has the answer and what follows. Callbacks only: no task, future or timer,
and one write for what fits into one. Requests of a connection are served one after the other; what comes
early waits.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint64_t

from ratelimitd.http.head cimport Head
from ratelimitd.http.request cimport (
    accepts_text, asks_for_upgrade, believed_values, encoded_line, needs_care, origin_line, request_text,
)
from ratelimitd.http.second_reader cimport Witness
from ratelimitd.limits.inflight cimport ENTERED, FULL, Entered
from ratelimitd.limits.decision cimport ADMIT, AGAIN, AMBIGUOUS, BANNED, DENY, LIMIT, Decision, Limiter
from ratelimitd.proxy.clock cimport boottime_us
from ratelimitd.proxy.exchange cimport (
    ANSWERING, ASKED, BODY, CLOSED, DISCARDING, HEAD, IDLE, LINGERING, MOST_PIPELINED, Exchange,
)
from ratelimitd.proxy.live cimport CLIENT_GONE, DENIED, LIMITED, MALFORMED, SHED, Listener, Policy, Route

from ratelimitd.errors import ClientFault
from ratelimitd.http import head as _head
from ratelimitd.limits import values
from ratelimitd.proxy.identity import peer_of

# Sent twice, they do what they do once (RFC 9110, 9.2.2); TRACE is of no use here.
cdef frozenset IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"))
cdef frozenset METHODS = _head.METHODS
cdef bytes NOTHING = b""


cdef class ClientConnection(Exchange):
    """A client's connection: an asyncio protocol."""

    def __init__(self, Listener listener):
        self.listener = listener
        self.live = listener.live
        self.buffer = NOTHING

    def connection_made(self, transport):
        cdef Policy policy = self.live.policy
        self.transport = transport
        self.write = transport.write
        self.peer = peer_of(transport)
        self.live.slots[self.listener.idle_slot] += 1
        self.live.connections.add(self)
        if self.peer is None:
            self.cut()
        elif len(self.live.connections) > policy.connections_bound:
            self.live.slots[self.live.refused_total_slot] += 1
            self.cut()
        elif not self._has_place(policy):
            self.live.slots[self.live.refused_client_slot] += 1
            self.cut()
        else:
            self.live.wheel.set(self, policy.head_ms)

    cdef bint _has_place(self, Policy policy):
        """Whether the peer may have one connection more; who is exempt always may."""
        cdef uint64_t key = policy.identify.peer(self.peer).place_key
        cdef Entered entered
        if key == 0:
            return True
        entered = self.live.inflight.enter(key, policy.client_connections_bound)
        if entered == ENTERED:
            self.place_key = key  # where the count was not free no place was taken, and none is given back
        return entered != FULL

    def connection_lost(self, error):
        if self.state == ASKED or self.state == ANSWERING or self.state == BODY:
            self.drop_upstream()
            self.end_request(CLIENT_GONE)
        self.state = CLOSED
        self.live.slots[self.listener.idle_slot] -= 1
        if self.place_key:
            self.live.inflight.leave(self.place_key)
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
            self.serve()
        elif self.body_left and self.state != LINGERING and self.state != CLOSED:
            self.buffer = data
            self.at = 0
            self._take_body(data)
        elif self.state < LINGERING:
            # What was used up goes: who always asks ahead never lets the buffer run empty.
            self.buffer = self.buffer[self.at :] + data
            self.resume -= min(self.resume, <size_t>self.at)
            self.at = 0
            if PyBytes_GET_SIZE(self.buffer) > MOST_PIPELINED:
                self.pause_reading(True)

    def eof_received(self):
        if self.state == IDLE or self.state == HEAD or self.state >= DISCARDING or self.body_left:
            return False
        # The request is whole: a client may close its side and still read the answer, and those to the
        # requests that it sent along.
        self.ended = True
        return True

    # --- a request comes in ---------------------------------------------------------------------------

    cdef void serve(self):
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
        if self.state <= HEAD:
            # A client that takes no answers is served nothing, and not read for ever.
            self.pause_reading(self.write_paused and PyBytes_GET_SIZE(self.buffer) - self.at > MOST_PIPELINED)
        if self.ended and self.state <= HEAD and not self.write_paused:
            self._close()

    cdef bint _read_request(self):
        """Reads one head, and goes on with it; False when more bytes are needed."""
        cdef Policy policy = self.live.policy
        cdef Head head = policy.head
        cdef Py_ssize_t end
        cdef int status
        cdef const char* text = PyBytes_AS_STRING(self.buffer)  # a NUL ends it
        while text[self.at] == c"\r" and text[self.at + 1] == c"\n":
            self.at += 2  # RFC 9112, 2.2: empty lines before the request line are ignored
        end = head.find_end(self.buffer, self.at, &self.resume)
        if end == 0 and PyBytes_GET_SIZE(self.buffer) - self.at <= policy.head_bound:
            return self._wait_for_head(policy)
        self.state = HEAD
        self.begin_request(policy)
        if end < 0 and <Py_ssize_t>self.resume - self.at <= policy.head_bound:
            self._refuse(400, "a line ends in a bare LF")
            return True
        if end <= 0 or end - self.at > policy.head_bound:
            return self._refuse_large(policy)
        self.bytes_in = end - self.at
        status = head.parse_request(self.buffer, self.at, end, policy.target_bound)
        if policy.log is not None:
            self.keep_head(head)
        if status:
            self._refuse(status, head.fault.decode())
            return True
        self.resume = self.at = end
        self._take_head(head)
        return True

    cdef void _take_head(self, Head head):
        """One whole head, well formed: on with the request."""
        cdef bytes method = head.method()
        self.witness = None
        self.minor = head.minor
        self.keep_alive = head.keep_alive
        self.is_head = head.is_head
        self.expects_continue = head.expects_continue
        self.body_left = max(head.content_length, 0)
        self.bytes_in += self.body_left
        self.idempotent = method in IDEMPOTENT
        if self._is_served(head, method) and self._admit(head, method):
            self._forward(head)

    cdef bint _refuse_large(self, Policy policy):
        if self.buffer.find(b"\n", self.at, self.at + policy.head_bound) < 0:
            self._refuse(414, "the request line is larger than bounds.head")
        else:
            self._refuse(431, "the head is larger than bounds.head")
        return True

    cdef bint _wait_for_head(self, Policy policy):
        """Part of a head: keeps it, unless its first byte already says that this is no HTTP."""
        cdef uint8_t first
        if self.at == PyBytes_GET_SIZE(self.buffer):
            return False
        first = <uint8_t>PyBytes_AS_STRING(self.buffer)[self.at]
        if first != c"\r" and not (c"A" <= first <= c"Z" or c"a" <= first <= c"z"):
            self.begin_request(policy)
            self._refuse(400, "this is no HTTP request")
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

    cdef bint _is_served(self, Head head, bytes method):
        """Whether this is a request that can be served here and read in one way only; False: answered."""
        if not self.idempotent and method not in METHODS:
            self._refuse(501, "this method is not known here")
        elif method == b"CONNECT":
            self._refuse(405, "this is no forward proxy: CONNECT is not served")
        elif head.chunked:
            self._refuse(411, "send the body with Content-Length: chunked requests are not served by this version")
        elif asks_for_upgrade(head):
            self._refuse(501, "protocol upgrades are not served by this version")
        elif not self._is_read_alike(head):
            self._refuse(400, "the request can be read in more than one way")
        else:
            if self.body_left:
                self.witness = self.live.second_reader.take()
            return True
        return False

    cdef bint _is_read_alike(self, Head head):
        """Whether the second reader reads this request as we do."""
        cdef bytes data = self.buffer
        cdef Py_ssize_t start = head.start, end = head.end
        if head.upgrades or head.raw_target:
            # An offer that we decline; llhttp would leave all that follows, the body too, to what is offered.
            # Nor does it know the spelling of a target that we mend.
            data = head.render(encoded_line(head), NOTHING, end)
            start, end = 0, PyBytes_GET_SIZE(data)
        return self.live.second_reader.agrees(data, start, end, self.body_left > 0, self.keep_alive)

    cdef bint _admit(self, Head head, bytes method):
        """The questions in order: how large, whose, what for, is there room, and is it too many. False: answered."""
        cdef Policy policy = self.policy
        cdef object text = None
        if self.body_left > policy.body_bound:
            self.reply(413, "the body is larger than bounds.body", MALFORMED, None, NOTHING, False, False)
            return False
        try:
            if policy.needs_text or needs_care(head):
                text = request_text(head, method)
        except ClientFault as fault:
            self._refuse(fault.status, fault.detail)
            return False
        self._identify(head)
        if policy.log is not None:
            self.address = self.client.address
        if self.client.denied:
            self.reply(403, "this client is denied here", DENIED, None, NOTHING, False, accepts_text(head))
            return False
        self.route = self._route(policy, text)
        if self.route is None:
            self.reply(404, "no route matches this request", DENIED, None, NOTHING, False, accepts_text(head))
            return False
        if not self.live.gate.admits(self.route.priority):
            self._shed(head)
            return False
        return self._decide(head, text)

    cdef void _refuse(self, int status, str detail):
        """For what is malformed: nothing behind it can be trusted, so the connection ends."""
        self.reply(status, detail, MALFORMED, None, NOTHING, True, False)

    cdef void _shed(self, Head head):
        """Turns away what this machine has no room for just now; no limit is charged for it."""
        self.reply(
            self.policy.shed_status,
            "this service is asked for more than it can do just now: try again after the time in Retry-After",
            SHED, None, self.live.gate.retry_after(), False, accepts_text(head),
        )

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
        cdef Decision decision = policy.limiter.decide(head, self.client, text, self.trusted, boottime_us())
        cdef int i
        while decision == AGAIN:
            decision = policy.limiter.decide_again(boottime_us())
        self.decided_us = policy.limiter.decided.at_us
        if decision == ADMIT:
            self.rate_lines = policy.limiter.admitted_lines() if policy.rate_limit_fields else NOTHING
            for i in range(policy.limiter.held_count):
                self.held[i] = policy.limiter.held[i]
            self.held_count = policy.limiter.held_count
            return True
        if decision == LIMIT or decision == BANNED:
            self._note_refusal(head, text)
        return self._refuse_limited(head, decision)

    cdef int _note_refusal(self, Head head, object text) except -1:
        """For the operators: which key it was. Its text is made once, and only when it gets a place."""
        cdef Limiter limiter = self.policy.limiter
        if self.live.refusals.note(limiter.deciding_key):
            self.live.refusals.keep(
                limiter.deciding_key,
                limiter.names[limiter.deciding],
                values.tail(limiter.compiled[limiter.deciding], head, self.client.key_bytes, text),
            )
        return 0

    cdef bint _refuse_limited(self, Head head, Decision decision):
        cdef Policy policy = self.policy
        cdef str limit = policy.limiter.names[policy.limiter.deciding] if policy.limiter.deciding >= 0 else None
        cdef bytes added
        if decision == LIMIT:
            added = policy.limiter.refused_lines() if policy.rate_limit_fields else (
                b"Retry-After: %d\r\n" % policy.limiter.retry_after()
            )
            self.reply(429, "too many requests: try again after the time in Retry-After", LIMITED, limit, added,
                        False, accepts_text(head))
        elif decision == DENY:
            self.reply(403, "what a limit counts by is missing", DENIED, limit, NOTHING, False,
                        accepts_text(head))
        elif decision == BANNED:
            self.reply(403, "this client is banned for a while", DENIED, limit, NOTHING, False,
                        accepts_text(head))
        elif decision == AMBIGUOUS:
            self.reply(400, "what a limit counts by is there twice", MALFORMED, limit, NOTHING, True, False)
        else:
            self.reply(503, "the count is not available just now: try again", LIMITED, limit, b"Retry-After: 1\r\n",
                        False, accepts_text(head))
        return False

    cdef void _identify(self, Head head):
        """Who asks: once per connection, for a trusted proxy once per value of the believed field."""
        cdef Policy policy = self.policy
        cdef bytes field = None
        if self.client_policy is not policy:
            peer = policy.identify.peer(self.peer)
            self.trusted = peer.trusted
            self.peer_text = peer.text
            self.peer_lines = policy.forwarding.peer_lines(peer.text, self.listener.scheme)
            self.client = peer.client
        elif not self.trusted:
            return
        if self.trusted:
            field = believed_values(head, policy.identify.field)
            if self.client_policy is not policy or field != self.client_field:
                self.client = policy.identify.client(self.peer) if field is None else (
                    policy.identify.forwarded_client(self.peer, field)
                )
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
        if policy.log is not None:
            self.request_id = policy.forwarding.id
        self.hostless = head.host < 0 or self.route.upstream.replaces_host
        if self.hostless and head.host >= 0:
            head.fields[head.host].drop = 1
        self.request = head.render(origin_line(head), lines, body_end)
        self.at = body_end
        if self.body_left == 0:
            self.state = ASKED
            self.request_whole = True
            self._send()
            return
        if not self._witnessed(memoryview(self.buffer)[head.end : body_end]):
            self._refuse(400, "the body can be read in more than one way")
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
                self.await_next()
            return
        if not self._witnessed(part):
            self.body_left -= n
            self.drop_upstream()
            self.status = self.status or 400
            self.end_request(MALFORMED)
            self.cut()
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
            self.pause_reading(True)

    cdef void upstream_is_open(self):
        if self.body_left:
            self.pause_reading(self.connection.full)

    cdef void upstream_is_full(self, bint full):
        if self.body_left:
            self.pause_reading(full)
