# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""The side of the clients: the way of a request, in the order in which it is gone.

bytes -> head (`_read_request`) -> who asks and what for (`_admit`) -> may it pass (`_shed`, then `limiting`) -> forwarded
(`forward`); `upload` has the body, `exchange` the answer and what follows. Callbacks only: no task, future or
timer, and one write for what fits into one. Requests of a connection are served one after the other; what
comes early waits.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t

from ratelimitd.http.head cimport Head
from ratelimitd.http.matching cimport RequestText
from ratelimitd.http.request cimport (
    accepts_text, believed_values, encoded_line, needs_care, origin_line, request_text, takes_trailers,
)
from ratelimitd.http.request_body cimport RequestBody
from ratelimitd.http.upgrade cimport offered_protocols, offers_only_http2, upgrade_lines
from ratelimitd.limits.charges cimport Client
from ratelimitd.proxy.admission cimport ROOM, TOO_MANY, Admitted
from ratelimitd.proxy.bulk cimport LARGE, read_in_bulk
from ratelimitd.proxy.clock cimport boottime_us
from ratelimitd.proxy.exchange cimport (
    ANSWERING, ASKED, BODY, CLOSED, DISCARDING, HEAD, IDLE, LINGERING, MOST_PIPELINED, TUNNEL, WAITING,
)
from ratelimitd.proxy.limiting cimport Limiting
from ratelimitd.proxy.live cimport CLIENT_GONE, DENIED, MALFORMED, SHED, Listener, Policy, Route
from ratelimitd.proxy.upload cimport BODY_TOO_LARGE

from ratelimitd.errors import ClientFault
from ratelimitd.http import methods as _methods
from ratelimitd.proxy.identity import peer_of

# Sent twice, they do what they do once (RFC 9110, 9.2.2); TRACE is of no use here.
cdef frozenset IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"))
cdef frozenset METHODS = _methods.METHODS
cdef frozenset UNKNOWN_TO_LLHTTP = _methods.UNKNOWN_TO_LLHTTP
cdef bytes NOTHING = b""

cdef enum:
    LARGE_READ = 16384  # smaller ones need not wait for a turn


cdef class ClientConnection(Limiting):
    """A client's connection: an asyncio protocol. `source` is its peer where that is not the transport's own."""

    def __init__(self, Listener listener, str source=None, bytes scheme=b"http"):
        self.listener = listener
        self.peer = source
        self.scheme = scheme
        self.live = listener.live
        self.buffer = NOTHING

    def connection_made(self, transport):
        cdef Policy policy = self.live.policy
        cdef Admitted admitted
        self.transport = transport
        self.write = transport.write
        transport.set_write_buffer_limits(0)  # what is not taken at once waits with its sender
        self.peer = self.peer or peer_of(transport)
        self.live.slots[self.listener.idle_slot] += 1
        self.live.connections.add(self)
        self.started_us = boottime_us()
        if self.peer is None:
            self.cut()
            return
        admitted = self.live.admission.enter(
            transport, policy.connections_bound,
            policy.identify.peer(self.peer).place_key, policy.client_connections_bound, &self.entries,
        )
        if admitted == ROOM:
            self.live.wheel.set(self, policy.head_ms)
        else:
            self.live.slots[
                self.live.refused_total_slot if admitted == TOO_MANY else self.live.refused_client_slot
            ] += 1
            self.cut()

    def connection_lost(self, error):
        if self.state == ASKED or self.state == ANSWERING or self.state == BODY or self.state == WAITING:
            if self.waiter is not None:
                self.live.leases.leave(self.waiter)
                self.waiter = None
            self.drop_upstream()
            self.end_request(CLIENT_GONE)
        elif self.state == TUNNEL:
            self._leave_tunnel()
        self.state = CLOSED
        self.live.slots[self.listener.idle_slot] -= 1
        self.live.admission.leave(&self.entries)
        self.live.wheel.forget(self)
        self.live.connections.discard(self)

    def data_received(self, bytes data):
        self.live.slots[self.live.bytes_in_slot] += PyBytes_GET_SIZE(data)
        if PyBytes_GET_SIZE(data) >= LARGE and not self.in_bulk:
            self.in_bulk = read_in_bulk(self.transport, self)
        if self.state == IDLE or self.state == HEAD:
            if PyBytes_GET_SIZE(self.buffer) == 0:
                self.started_us = boottime_us()
                self.buffer = data
                self.at = self.resume = 0
            else:
                self._append(data)
            self.serve()
        elif self.body_left and self.state != LINGERING and self.state != CLOSED and self.state != WAITING:
            self.buffer = data
            self.at = 0
            self.take_body()
            self.let_go()
        elif self.state < LINGERING:
            self._append(data)
            if PyBytes_GET_SIZE(self.buffer) > MOST_PIPELINED:
                self.pause_reading(True)
        if PyBytes_GET_SIZE(data) >= LARGE_READ and not self.live.turns.has_bytes(PyBytes_GET_SIZE(data)):
            self._wait_turn()

    cdef void _append(self, bytes data):
        """What was used up goes, but for a request that waits: who always asks ahead never lets the buffer run
        empty."""
        if self.state == WAITING:
            self.buffer += data
            return
        self.buffer = self.buffer[self.at :] + data
        self.resume -= min(self.resume, <size_t>self.at)
        self.at = 0

    def eof_received(self):
        if self.state >= DISCARDING or (self.state <= HEAD and not self._has_requests()):
            return False
        if self.body_left and self.state != WAITING:
            return self.end_within_body()
        # The request is whole: a client may close its side and still read the answer, and those to the
        # requests that it sent along.
        self.ended = True
        self.bound_stream()
        return True

    cdef bint _has_requests(self) noexcept:
        """Whether there are some that were not looked at yet."""
        return (self.waits_turn or self.write_paused) and self.at < PyBytes_GET_SIZE(self.buffer)

    def refuse_plain(self, bytes data):
        """Says that this port speaks TLS, to one who has sent plain HTTP; `transport` sends plainly then."""
        self.buffer = data
        self.started_us = boottime_us()
        self.begin_request(self.live.policy)
        self.reply(400, "this port speaks TLS: ask for https://", MALFORMED, None, NOTHING, True, True)

    # --- a request comes in ---------------------------------------------------------------------------

    cdef void serve(self):
        """Serves what is in the buffer, one request after the other, as far as it goes at once and in turn."""
        cdef bint another = False
        if self.serving or self.waits_turn:
            return  # a request that was answered at once: the loop below goes on, or the next turn
        self.serving = True
        while self.state <= HEAD and self.at < PyBytes_GET_SIZE(self.buffer) and not self.write_paused:
            if another and not self.live.turns.has_request():
                self._wait_turn()
                break
            another = True
            if not self._read_request():
                break
        self.serving = False
        self.let_go()
        if self.state <= HEAD:
            # A client that takes no answers is served nothing, and not read for ever.
            self.pause_reading(self.write_paused and PyBytes_GET_SIZE(self.buffer) - self.at > MOST_PIPELINED)
        if self.ended and self.state <= HEAD and not (self.write_paused or self.waits_turn):
            self._close()

    cdef void _wait_turn(self):
        """Nothing more of this client before its turn comes again."""
        if not self.waits_turn and self.state < CLOSED:
            self.waits_turn = True
            self.transport.pause_reading()
            self.live.turns.wait(self)

    def go_on(self):
        """Its turn has come."""
        self.waits_turn = False
        self.serve()
        if not self.waits_turn and not self.reading_paused and self.state < CLOSED:
            self.transport.resume_reading()

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
            self.refuse(400, "a line ends in a bare LF")
            return True
        if end <= 0 or end - self.at > policy.head_bound:
            return self._refuse_large(policy)
        self.bytes_in = end - self.at
        status = head.parse_request(self.buffer, self.at, end, policy.target_bound)
        if policy.log is not None:
            self.keep_head(head, self.buffer)
        if status:
            self.refuse(status, head.fault.decode())
            return True
        self.resume = self.at = end
        self._take_head(head)
        return True

    cdef void _take_head(self, Head head):
        """One whole head, well formed: on with the request."""
        cdef bytes method = head.method()
        self.body = None
        self.minor = head.minor
        self.keep_alive = head.keep_alive
        self.is_head = head.is_head
        self.expects_continue = head.expects_continue
        self.body_left = 1 if head.chunked else max(head.content_length, 0)
        self.idempotent = method in IDEMPOTENT
        self.offered = offered_protocols(head) if head.upgrades else None
        if self._is_served(head, method) and self._admit(head, method):
            self.forward(head)

    cdef bint _refuse_large(self, Policy policy):
        if self.buffer.find(b"\n", self.at, self.at + policy.head_bound) < 0:
            self.refuse(414, "the request line is larger than bounds.head")
        else:
            self.refuse(431, "the head is larger than bounds.head")
        return True

    cdef bint _wait_for_head(self, Policy policy):
        """Part of a head: keeps it, unless its first byte already says that this is no HTTP."""
        cdef uint8_t first
        if self.at == PyBytes_GET_SIZE(self.buffer):
            return False
        first = <uint8_t>PyBytes_AS_STRING(self.buffer)[self.at]
        if first != c"\r" and not (c"A" <= first <= c"Z" or c"a" <= first <= c"z"):
            self.begin_request(policy)
            self.refuse(400, "this is no HTTP request")
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
            self.refuse(501, "this method is not known here")
        elif method == b"CONNECT":
            self.refuse(405, "this is no forward proxy: CONNECT is not served")
        elif self.body_left and head.upgrades and not offers_only_http2(head):
            self.refuse(400, "a request with a body cannot switch to another protocol")
        elif not self._is_read_alike(head, method):
            self.refuse(400, "the request can be read in more than one way")
        else:
            if self.body_left:
                self.body = RequestBody(head.content_length, head.chunked, self.live.second_reader.take())
            return True
        return False

    cdef bint _is_read_alike(self, Head head, bytes method):
        """Whether the second reader reads this request as we do."""
        cdef bytes data = self.buffer
        cdef bytes line = None
        cdef Py_ssize_t start = head.start, end = head.end
        if not self.idempotent and method in UNKNOWN_TO_LLHTTP:
            line = b"POST" + data[head.method_end : head.fields_start]  # which is framed in the same way
        elif head.raw_target:
            line = encoded_line(head)  # llhttp knows no spelling that we mend
        if head.upgrades or line is not None:
            # llhttp would leave all that follows, a body too, to the protocol that is offered.
            data = head.render(line, NOTHING, end)
            start, end = 0, PyBytes_GET_SIZE(data)
        return self.live.second_reader.agrees(data, start, end, self.body_left > 0, self.keep_alive)

    cdef bint _admit(self, Head head, bytes method):
        """The questions in order: how large, whose, what for, is there room, and is it too many. False: answered."""
        cdef Policy policy = self.policy
        cdef RequestText text = None
        if self.body_left > policy.body_bound:
            self.reply(413, BODY_TOO_LARGE, MALFORMED, None, NOTHING, False, False)
            return False
        try:
            if policy.needs_text or needs_care(head):
                text = request_text(head, method)
        except ClientFault as fault:
            self.refuse(fault.status, fault.detail)
            return False
        self._identify(head)
        if policy.log is not None:
            self.address = self.client.address
        if self.client.denied:
            return self.turn_away(head, 403, "this client is denied here", DENIED, None, NOTHING)
        self.route = self._route(policy, text)
        if self.route is None:
            return self.turn_away(head, 404, "no route matches this request", DENIED, None, NOTHING)
        if not self.live.gate.admits(self.route.priority, self.client.key_bytes):
            return self._shed(head)
        return self.decide(head, text)

    cdef bint _shed(self, Head head):
        """Turns away what this machine has no room for just now; no limit is charged for it."""
        return self.turn_away(
            head, self.policy.shed_status,
            "this service is asked for more than it can do just now: try again after the time in Retry-After",
            SHED, None, self.live.gate.retry_after(),
        )

    cdef Route _route(self, Policy policy, RequestText text):
        if policy.only_route is not None:
            return policy.only_route
        for route in policy.routes:
            if (<Route>route).matcher is None or (<Route>route).matcher.matches(text):
                return <Route>route
        return None

    cdef void _identify(self, Head head):
        """Who asks: once per connection, for a trusted proxy once per value of the believed field."""
        cdef Policy policy = self.policy
        cdef bytes field = None
        if self.client_policy is not policy:
            peer = policy.identify.peer(self.peer)
            self.trusted = peer.trusted
            self.peer_text = peer.text
            self.peer_lines = policy.forwarding.peer_lines(peer.text, self.scheme)
            self.client = peer.client
        elif not self.trusted:
            return
        if self.trusted:
            field = believed_values(head, policy.identify.field)
            if self.client_policy is not policy or field != self.client_field:
                self.client = self._forwarded_client(policy, field)
        self.client_field = field
        self.client_policy = policy

    cdef Client _forwarded_client(self, Policy policy, bytes field):
        cdef Client client = None
        if field is None:
            return policy.identify.client(self.peer)
        if policy.plain_clients is not None:
            client = policy.plain_clients.named(field)
        return policy.identify.forwarded_client(self.peer, field) if client is None else client

    # --- on to the upstream ---------------------------------------------------------------------------

    cdef void forward(self, Head head):
        """Adds what the server is to know, and sends the request or has its body read."""
        cdef Policy policy = self.policy
        cdef bytes lines = policy.forwarding.lines(
            head, self.peer_lines, self.peer_text, self.scheme, self.trusted)
        if self.offered is not None:
            lines += upgrade_lines(self.offered)
        if policy.log is not None:
            self.request_id = policy.forwarding.id
        if head.has_te and takes_trailers(head):
            lines += b"TE: trailers\r\nConnection: TE\r\n"
        self.prepare_choice(head, self.client)
        self.hostless = head.host < 0 or self.route.upstream.replaces_host
        if self.hostless and head.host >= 0:
            head.fields[head.host].drop = 1
        if self.body_left:
            self.forward_with_body(head, lines)
            return
        self.request = head.render(origin_line(head), lines, head.end)
        self.state = ASKED
        self.request_whole = True
        self.send()
