# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""The side of the web servers: which one is asked, over which connection, and where its answer ends.

A request goes to an idle connection of the chosen server, the one used last, or a new one is opened for it.
The answer's framing is decided here once (RFC 9112, 6.3) and told to whoever asked, head first. A kept
connection that turns out closed before the first byte of an answer is replaced once where that is safe. One
asker, one answer: bytes beyond it end the connection and reach nobody.
"""

from cpython.bytes cimport PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint64_t

from ratelimitd.http.body cimport ChunkedReader
from ratelimitd.http.head cimport CONTENT_LENGTH, TRANSFER_ENCODING, Head
from ratelimitd.http.upgrade cimport taken_protocols
from ratelimitd.proxy.clock cimport boottime_us
from ratelimitd.proxy.deadlines cimport Timed, Wheel
from ratelimitd.proxy.server cimport Server

cdef enum:
    FREE  # in the pool, or new
    HEAD  # the head of the answer is awaited
    LENGTH  # so many bytes of body are left
    CHUNKED
    UNTIL_CLOSE
    OVER
    TUNNEL  # a 101 was passed on: a tunnel has the transport

cdef int MOST_INTERIMS = 16
cdef uint64_t MOMENT_MS = 100
cdef Py_ssize_t MOST_HEAD = 65536
cdef str TOO_LARGE = "its head is larger than 64 KiB"


cdef class Downstream(Timed):
    cdef void answer_begins(self, Head head, bytes data, Py_ssize_t body_end, bint until_close, bint whole):
        """The head of the answer, and its body so far: data[head.end:body_end]. `until_close`: only the end
        of the connection will end it. `whole`: that was all of it."""

    cdef void answer_goes_on(self, bytes data, bint whole):
        """More of the body."""

    cdef void answer_interim(self, bytes head):
        """A whole 1xx answer; the final one follows."""

    cdef void protocol_switches(self, Head head, bytes protocols, bytes data):
        """A 101 takes up the offer: all that follows, beginning with data[head.end:], is no HTTP any more."""

    cdef void answer_fails(self, int status, str detail):
        """There is no answer, and none has begun."""

    cdef void answer_is_cut(self, str detail):
        """The answer that has begun will not be finished."""

    cdef void upstream_is_full(self, bint full):
        """Whether the upstream takes no more of the request just now."""

    cdef void upstream_is_open(self):
        """A connection was opened and `request` is sent: more may follow."""


cdef class Attempt:
    """A connection that is being opened for somebody."""


cdef class Upstream:
    """The servers of one name. `dial(server address, protocol factory)` is a coroutine function that opens a
    connection or raises OSError within the connect timeout."""

    def __init__(self, config, list servers, Wheel wheel, loop, dial, bint replaces_host, int duration_slot):
        self.name = config.name
        self.servers = servers
        self.wheel = wheel
        self.loop = loop
        self.dial = dial
        self.round_robin = config.balance == "round_robin"
        self.keepalive = config.keepalive
        self.keepalive_idle_ms = config.keepalive_idle_ms
        self.eject_failures = config.eject_failures
        self.eject_for_ms = config.eject_for_ms
        self.replaces_host = replaces_host
        self.duration_slot = duration_slot
        self.head = Head(256)

    cdef void send(self, Downstream asker):
        """Has `asker.request` answered."""
        cdef Server server = self.choose(None)
        if server is None:
            asker.answer_fails(503, "every server of this upstream failed lately and is left alone for a while")
            return
        if server.idle:
            (<Connection>server.idle.pop()).begin(asker)
        else:
            self._open(asker, server, set())

    cdef Server choose(self, set tried):
        """The server to ask: the one with the fewest requests in flight for its weight, or the next in turn;
        backups only when no other is left; None when all were tried or are ejected."""
        cdef Server server, best = None
        cdef int i, n = len(self.servers)
        cdef bint backup = False
        if n == 1 and tried is None:
            server = <Server>self.servers[0]
            return server if server.ejected_until <= self.wheel.now else None
        for i in range(n):
            server = <Server>self.servers[(self.next + i) % n]
            if server.ejected_until > self.wheel.now or (tried is not None and server in tried):
                continue
            if best is None or (backup and not server.address.backup):
                best, backup = server, server.address.backup
            elif server.address.backup == backup and not self.round_robin:
                if server.in_flight * best.address.weight < best.in_flight * server.address.weight:
                    best = server
        self.next = (self.next + 1) % n
        return best

    cdef void _open(self, Downstream asker, Server server, set tried):
        cdef Attempt attempt = Attempt()
        attempt.asker = asker
        asker.attempt = attempt
        server.took(1)  # so that those who come while it is opened choose others
        attempt.task = self.loop.create_task(self._opened(attempt, server, tried))

    async def _opened(self, Attempt attempt, Server server, set tried):
        """Opens a connection for whoever waits in `attempt`; a server that cannot be reached is followed by
        the next one, since nothing of the request was sent yet."""
        cdef Connection connection
        while True:
            if attempt.asker is not None:
                attempt.asker.server = server
            try:
                _, connection = await self.dial(server.address, lambda: Connection(self, server))
                if connection.state == OVER:
                    raise OSError("it was closed before anything was asked")
            except OSError:
                server.took(-1)
                self.failed(server)
                tried.add(server)
                following = self.choose(tried) if attempt.asker is not None else None
                if following is not None:
                    server = following
                    server.took(1)
                    continue
                if attempt.asker is not None:
                    attempt.asker.attempt = None
                    attempt.asker.answer_fails(502, "no web server could be reached")
                return
            break
        server.took(-1)
        if attempt.asker is None:
            connection.release()
            return
        attempt.asker.attempt = None
        connection.begin(attempt.asker)
        if connection.asker is not None:
            connection.asker.upstream_is_open()

    cdef void failed(self, Server server) noexcept:
        """A server that fails often in a row is left alone for a while, but never the last one."""
        cdef Server other
        server.failures += 1
        if server.failures < self.eject_failures:
            return
        for other in self.servers:
            if other is not server and other.ejected_until <= self.wheel.now:
                server.ejected_until = self.wheel.now + self.eject_for_ms // self.wheel.tick_ms
                server.failures = 0
                return


cdef class Connection(Timed):
    """One connection to a server; at most one request is on it."""

    def __init__(self, Upstream upstream, Server server):
        self.upstream = upstream
        self.server = server

    def connection_made(self, transport):
        self.transport = transport
        self.write = transport.write

    cdef void begin(self, Downstream asker):
        """Sends what `asker` asks."""
        cdef bytes request = asker.request
        self.asker = asker
        asker.connection = self
        asker.server = self.server
        self.state = HEAD
        self.interims = 0
        self.keep = False
        self.upstream.wheel.clear(self)
        self.server.took(1)
        if asker.hostless:
            line, _, rest = request.partition(b"\n")
            request = b"%b\n%b%b" % (line, self.server.host_line, rest)
        self.write(request)
        if self.full:
            asker.upstream_is_full(True)  # since the request before, perhaps: it is told when that changes

    cdef void pause(self, bint pause):
        """Whoever asked takes no more of the answer just now."""
        if pause != self.paused and self.state != OVER:
            self.paused = pause
            if pause:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    cdef void leave(self):
        """Nobody waits for the answer any more: the connection is of no further use."""
        if self.asker is not None:
            self.asker.connection = None
            self.asker = None
            self.server.took(-1)
        self.state = OVER
        self.transport.abort()

    cdef void release(self):
        """The answer is whole, or nothing was asked: keep the connection for the next request."""
        if self.asker is not None:
            self.asker.connection = None
            self.asker = None
            self.server.took(-1)
            self.used = True
        elif self.state == FREE:
            self.keep = True
        self.chunks = None
        if self.paused:
            self.paused = False
            self.transport.resume_reading()
        if self.keep and self.upstream.keepalive:
            self.state = FREE
            self.server.idle.append(self)
            # One too many stays for a moment: answers come in crowds, and so do the next requests.
            crowded = len(self.server.idle) > self.upstream.keepalive
            self.upstream.wheel.set(self, MOMENT_MS if crowded else self.upstream.keepalive_idle_ms)
        else:
            self.state = OVER
            self.transport.close()

    cdef void expire(self):
        """It was idle for long enough."""
        if self.state == FREE:
            self._forsake()

    cdef void _forsake(self):
        """Ends a connection that nobody has asked anything on."""
        self.state = OVER
        if self in self.server.idle:
            self.server.idle.remove(self)
        self.transport.close()

    def data_received(self, bytes data):
        self.answered_us = boottime_us()
        if self.state == HEAD:
            self._read_head(data)
        elif self.state == FREE:
            # Nothing was asked: whatever this is, it is nobody's answer.
            self._forsake()
        elif self.state != OVER:
            self._read_body(data)

    cdef void _read_head(self, bytes data):
        cdef Head head = self.upstream.head
        cdef Py_ssize_t start = 0, end
        if self.buffer is not None:
            data = self.buffer + data
            self.buffer = None
        while True:
            end = head.find_end(data, start, &self.resume)
            if end == 0:
                if PyBytes_GET_SIZE(data) - start > MOST_HEAD:
                    self._ended(TOO_LARGE)
                elif start:
                    self.resume -= start
                    self.buffer = data[start:]
                else:
                    self.buffer = data
                return
            self.resume = 0
            if end < 0:
                self._ended("a line of the answer ends in a bare LF")
                return
            if end - start > MOST_HEAD:
                self._ended(TOO_LARGE)
                return
            if head.parse_response(data, start, end):
                self._ended(head.fault.decode())
                return
            if head.status >= 200:
                break
            start = self._interim(head, data, start, end)
            if start < 0:
                return
            self.resume = start
        self._frame(head, data, end)

    cdef Py_ssize_t _interim(self, Head head, bytes data, Py_ssize_t start, Py_ssize_t end):
        """Passes a 1xx on; returns where the next head starts, -1 when there is no use in going on."""
        self.interims += 1
        if head.status == 101:
            self._switch(head, data)
            return -1
        if self.interims > MOST_INTERIMS:
            self._ended("more than 16 interim answers")
            return -1
        head.drop_all(CONTENT_LENGTH)
        head.drop_all(TRANSFER_ENCODING)
        self.asker.answer_interim(head.render(None, b"", end))
        return end if self.asker is not None else -1

    cdef void _switch(self, Head head, bytes data):
        """A 101: hands the connection over to who offered the protocol."""
        cdef Downstream asker = self.asker
        cdef bytes protocols = None if asker.offered is None else taken_protocols(head, asker.offered)
        head.drop_all(CONTENT_LENGTH)
        head.drop_all(TRANSFER_ENCODING)
        if protocols is None:
            self._ended("a 101 to a protocol that nobody asked for")
            return
        self.state = TUNNEL
        self.server.failures = 0
        self.server.slots[self.server.first_code_slot] += 1
        asker.protocol_switches(head, protocols, data)

    cdef void _frame(self, Head head, bytes data, Py_ssize_t end):
        """The head of the final answer is there: decide how its body ends, and pass both on."""
        cdef Downstream asker = self.asker
        cdef Py_ssize_t reach = end
        self.keep = head.keep_alive
        self.server.failures = 0
        self.server.slots[self.server.first_code_slot + head.status // 100 - 1] += 1
        if asker.is_head or head.status == 204 or head.status == 304:
            self.left = 0
            self.state = LENGTH
            if head.status == 204:
                head.drop_all(CONTENT_LENGTH)
            if head.status == 204 or asker.minor == 0:
                head.drop_all(TRANSFER_ENCODING)
        elif head.chunked:
            self.chunks = ChunkedReader()
            self.state = CHUNKED
        elif head.content_length >= 0:
            self.left = head.content_length
            self.state = LENGTH
        else:
            self.state = UNTIL_CLOSE
            self.keep = False
        reach = self._reach(data, end)
        if reach < 0:
            self.state = HEAD  # nothing of it was passed on
            self._ended(self.chunks.fault)
        elif self.chunks is not None and asker.minor == 0:
            head.drop_all(TRANSFER_ENCODING)
            asker.answer_begins(head, data, end, True, False)
            self._pass_content()
        else:
            asker.answer_begins(head, data, reach, self.state == UNTIL_CLOSE, self.state == OVER)

    cdef void _pass_content(self):
        """The content of the chunks, for one who does not know chunks."""
        if self.asker is not None:
            self.asker.answer_goes_on(self.chunks.take_content(), self.state == OVER)

    cdef void _read_body(self, bytes data):
        cdef Downstream asker = self.asker
        cdef Py_ssize_t reach = self._reach(data, 0)
        if reach < 0:
            self._ended(self.chunks.fault)
            return
        if self.chunks is not None and asker.minor == 0:
            self._pass_content()
            return
        asker.answer_goes_on(data if reach == PyBytes_GET_SIZE(data) else data[:reach], self.state == OVER)

    cdef Py_ssize_t _reach(self, bytes data, Py_ssize_t start):
        """How far the body reaches in `data`; OVER when that is its end; -1 for no proper chunks. What lies
        beyond is no answer to anything: the connection is not kept."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        cdef Py_ssize_t reach = size
        if self.state == LENGTH:
            if self.left <= size - start:
                reach = start + self.left
                self.left = 0
                self.state = OVER
            else:
                self.left -= size - start
        elif self.state == CHUNKED:
            reach = self.chunks.feed(data, start, self.asker.minor == 0)
            if self.chunks.complete:
                self.state = OVER
        if reach < size:
            self.keep = False
        return reach

    def eof_received(self):
        # Nobody may be given a connection that is about to be lost.
        self.expire()
        return False

    def connection_lost(self, error):
        self.upstream.wheel.forget(self)
        if self.state == FREE and self in self.server.idle:
            self.server.idle.remove(self)
        elif self.state == UNTIL_CLOSE and error is None:
            self.state = OVER
            self.asker.answer_goes_on(b"", True)
        elif self.state == FREE:
            self.state = OVER
        elif self.state == TUNNEL:
            self.leave()
        elif self.state != OVER:
            self._fails("it ends before it is complete", True)

    def pause_writing(self):
        self.full = True
        if self.asker is not None:
            self.asker.upstream_is_full(True)

    def resume_writing(self):
        self.full = False
        if self.asker is not None:
            self.asker.upstream_is_full(False)

    cdef void _ended(self, str why):
        """The answer is none: the exchange ends here."""
        self._fails(why, False)

    cdef void _fails(self, str why, bint closed):
        """The exchange ends, and not well; `closed`: by the server, which had nothing more to say."""
        cdef Downstream asker = self.asker
        cdef bint began = self.state != HEAD
        cdef bint fresh_try = closed and not began and self.used and self.buffer is None and self.interims == 0
        self.buffer = None
        self.leave()
        if asker is None:
            return
        if began:
            asker.answer_is_cut(why)
        elif fresh_try and asker.request_whole and asker.idempotent:
            # The server closed a kept connection just when it was used: that is no failure of the server.
            self.upstream._open(asker, self.server, set())
        else:
            if not fresh_try:
                self.upstream.failed(self.server)
            asker.answer_fails(502, "the web server's answer cannot be used: " + why)
