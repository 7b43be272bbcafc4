# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""The side of the web servers: a connection to one, and where its answer ends.

The answer's framing is decided here once (RFC 9112, 6.3) and told to whoever asked, head first. One asker, one
answer: bytes beyond it end the connection and reach nobody. A kept connection that turns out closed before the
first byte of an answer is replaced once where that is safe. Where requests are counted, a server counts as busy
until it is done, whether or not the client still waits. Which server is asked, and when: `dispatch`.
"""

from cpython.bytes cimport PyBytes_GET_SIZE
from libc.stdint cimport uint64_t

from ratelimitd.http.body cimport ChunkedReader
from ratelimitd.http.head cimport CONTENT_LENGTH, TRANSFER_ENCODING, Head
from ratelimitd.http.upgrade cimport taken_protocols
from ratelimitd.proxy.balancing cimport Balancer, Kept, Server
from ratelimitd.proxy.bulk cimport LARGE, read_in_bulk
from ratelimitd.proxy.clock cimport boottime_us
from ratelimitd.proxy.deadlines cimport Timed, Wheel

cdef enum:
    FREE  # in the pool, or new
    HEAD  # the head of the answer is awaited
    LENGTH  # so many bytes of body are left
    CHUNKED
    UNTIL_CLOSE
    OVER
    TUNNEL  # a 101 was passed on: a tunnel has the transport

cdef int MOST_INTERIMS = 16, MOMENT_MS = 100, UNSENT_MS = 5000
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
        """`request` is sent, after a while in which a connection was opened or waited for: more may follow."""

    cdef void turned_away(self):
        """There was no room at any server in time."""

    cdef void leave_upstream(self, bint whole):
        """Waits no longer. `whole`: all of the request was handed over."""
        if self.connection is not None:
            self.connection.leave(whole)
        elif self.waits_for is not None:
            self.waits_for.forget(self)


cdef class Attempt:
    """A connection that is being opened for somebody."""


cdef class Upstream(Timed):
    """The servers of one name, as their connections and those who ask see them."""

    def __init__(self, config, Balancer balancer, Wheel wheel, bint replaces_host, int duration_slot):
        self.name = config.name
        self.balancer = balancer
        self.wheel = wheel
        self.keepalive = config.keepalive
        self.keepalive_idle_ms = config.keepalive_idle_ms
        self.replaces_host = replaces_host
        self.by_client = config.balance == "client"
        self.duration_slot = duration_slot
        self.head = Head(256)

    cdef void send(self, Downstream asker):
        """Has `asker.request` answered, now or when there is room for it."""

    cdef void again(self, Downstream asker, Server server, bint slot, bint place):
        """The same for one whose kept connection was closed, on a new one; it still holds these places."""

    cdef void forget(self, Downstream asker):
        """It no longer waits for room or for a connection."""

    cdef bint is_awaited(self) noexcept:
        """Whether anybody waits for room."""
        return False

    cdef void give_slot(self) noexcept:
        """A request that held a place is done."""

    cdef void freed(self):
        """There may be room now for those who wait."""


cdef class Connection(Kept):
    """One connection to a server, opened in `attempt`; at most one request is on it."""

    def __init__(self, Upstream upstream, Server server, Attempt attempt):
        self.upstream = upstream
        self.server = server
        self.attempt = attempt

    def connection_made(self, transport):
        self.transport = transport
        self.write = transport.write
        transport.set_write_buffer_limits(0)  # what is not taken at once waits with its sender
        self.server.connections.add(self)
        peer = transport.get_extra_info("peername")
        self.address = peer[0] if isinstance(peer, tuple) else None
        self.place, self.attempt.place = self.attempt.place, False
        self.attempt = None

    def retire(self):
        """Is of no use for another request: its address is no longer one of the server's."""
        self.retired = True
        if self.idle:
            self._forsake()

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
        self.in_work = True
        self.server.took(1)
        if asker.hostless:
            line, _, rest = request.partition(b"\n")
            request = b"%b\n%b%b" % (line, self.server.host_line, rest)
        self.write(request)
        if self.used and not asker.idempotent:
            self.unwritten = self.transport.is_closing()  # written at once, or as here not a byte of it
        if self.full:
            asker.upstream_is_full(True)  # since the request before, perhaps: it is told when that changes

    cdef bint is_over(self) noexcept:
        return self.state == OVER

    cdef void pause(self, bint pause):
        """Whoever asked takes no more of the answer just now."""
        if pause != self.paused and self.state != OVER:
            self.paused = pause
            if pause:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    cdef void leave(self, bint whole):
        """Nobody waits for the answer any more. The connection ends, which tells the server; but where what it
        has to do is counted, one that was asked in `whole` is busy until its answer begins or is overdue."""
        cdef Downstream asker = self.asker
        cdef uint64_t now = self.upstream.wheel.now
        if asker is not None:
            asker.connection = None
            self.asker = None
            if whole and self.state == HEAD and (self.slot or self.place) and asker.deadline > now:
                self.pause(False)
                self.upstream.wheel.set(self, (asker.deadline - now) * self.upstream.wheel.tick_ms)
                return
        self.state = OVER
        self._end_work()
        self.transport.abort()
        self.upstream.freed()

    cdef void release(self):
        """The answer is whole, or nothing was asked: keep the connection for the next request."""
        if self.asker is not None:
            self.asker.connection = None
            self.asker = None
            self._end_work()
            self.used = True
        elif self.state == FREE:
            self.keep = self.used = True
        self.chunks = None
        if self.paused:
            self.paused = False
            self.transport.resume_reading()
        if self.keep and self.upstream.keepalive and not self.retired and not self.full:
            self._lie_idle()
        else:
            self.state = OVER
            self.transport.close()
            if self.transport.get_write_buffer_size():  # of a request that was answered before it was sent whole
                self.upstream.wheel.set(self, UNSENT_MS)
        if self.upstream.bounded:
            self.upstream.freed()

    cdef void _lie_idle(self):
        cdef Wheel wheel = self.upstream.wheel
        cdef uint64_t idle_ms = self.upstream.keepalive_idle_ms
        self.state = FREE
        self.server.keep(self)
        if self.server.idle_count > self.upstream.keepalive:
            # One too many stays for a moment: answers come in crowds, and so do the next requests.
            idle_ms = min(idle_ms, <uint64_t>MOMENT_MS)
        self.idle_until = wheel.now + idle_ms // wheel.tick_ms + 1
        # Another worker may be in want of its place: then it ends sooner.
        wheel.set(self, 0 if self.place else idle_ms)

    cdef void _end_work(self) noexcept:
        """The server has nothing to do for us on this connection any more."""
        if self.in_work:
            self.in_work = False
            self.server.took(-1)
            if self.slot:
                self.slot = False
                self.upstream.give_slot()

    cdef void _give_place(self) noexcept:
        """Another connection may be opened to its server."""
        if self.place:
            self.place = False
            self.server.places.give()

    cdef void expire(self):
        """It was idle for long enough, its answer that nobody waits for is overdue, or it did not end by itself."""
        if self.state == OVER:
            self.transport.abort()
        elif not self.idle:
            if self.state == HEAD:
                self.leave(False)
        elif self.place and self.upstream.wheel.now < self.idle_until and not self.server.is_wanted():
            self.upstream.wheel.set(self, 0)
        else:
            self._forsake()

    cdef void _forsake(self):
        """Ends a connection that nobody has asked anything on."""
        self.state = OVER
        if self.idle:
            self.server.drop(self)
        self.transport.abort()

    def data_received(self, bytes data):
        self.answered_us = boottime_us()
        if PyBytes_GET_SIZE(data) >= LARGE and not self.in_bulk:
            self.in_bulk = read_in_bulk(self.transport, self)
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
                    self._fails(TOO_LARGE, False)
                elif start:
                    self.resume -= start
                    self.buffer = data[start:]
                else:
                    self.buffer = data
                return
            self.resume = 0
            if end < 0 or end - start > MOST_HEAD:
                self._fails("a line of the answer ends in a bare LF" if end < 0 else TOO_LARGE, False)
                return
            if head.parse_response(data, start, end):
                self._fails(head.fault.decode(), False)
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
        head.drop_all(CONTENT_LENGTH)
        head.drop_all(TRANSFER_ENCODING)
        if head.status == 101:
            self._switch(head, data)
            return -1
        if self.interims > MOST_INTERIMS:
            self._fails("more than 16 interim answers", False)
            return -1
        if self.asker is None:
            return end
        self.asker.answer_interim(head.render(None, b"", end))
        return end if self.asker is not None else -1

    cdef void _switch(self, Head head, bytes data):
        """A 101: hands the connection over to who offered the protocol."""
        cdef Downstream asker = self.asker
        cdef bytes offered = None if asker is None else asker.offered
        cdef bytes protocols = None if offered is None else taken_protocols(head, offered)
        if protocols is None:
            self._fails("a 101 to a protocol that nobody asked for", False)
            return
        self.state = TUNNEL
        self.upstream.balancer.answered(self.server)
        self.server.slots[self.server.first_code_slot] += 1
        asker.protocol_switches(head, protocols, data)

    cdef void _frame(self, Head head, bytes data, Py_ssize_t end):
        """The head of the final answer is there: decide how its body ends, and pass both on."""
        cdef Downstream asker = self.asker
        cdef Py_ssize_t reach = end
        self.keep = head.keep_alive
        self.upstream.balancer.answered(self.server)
        self.server.slots[self.server.first_code_slot + head.status // 100 - 1] += 1
        if asker is None:
            self.leave(False)
            return
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
            self._fails(self.chunks.fault, False)
        elif self.chunks is not None and asker.minor == 0:
            head.drop_all(TRANSFER_ENCODING)
            asker.answer_begins(head, data, end, True, False)
            if self.asker is not None:
                asker.answer_goes_on(self.chunks.take_content(), self.state == OVER)
        else:
            asker.answer_begins(head, data, reach, self.state == UNTIL_CLOSE, self.state == OVER)

    cdef void _read_body(self, bytes data):
        cdef Downstream asker = self.asker
        cdef Py_ssize_t reach = self._reach(data, 0)
        if reach < 0:
            self._fails(self.chunks.fault, False)
            return
        if self.chunks is not None and asker.minor == 0:
            data = self.chunks.take_content()  # for one who does not know chunks
            reach = PyBytes_GET_SIZE(data)
        asker.answer_goes_on(data if reach == PyBytes_GET_SIZE(data) else data[:reach], self.state == OVER)

    cdef Py_ssize_t _reach(self, bytes data, Py_ssize_t start):
        """How far the body reaches in `data`; OVER when that is its end; -1 for no proper chunks. What lies
        beyond is no answer to anything: the connection is not kept."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data), reach = size
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
        # Told at once, whatever is still to be sent: nobody may be given a connection that is about to be lost.
        self._ends(True)
        return False

    def connection_lost(self, error):
        self.upstream.wheel.forget(self)
        self.server.connections.discard(self)
        self._ends(error is None)
        self._give_place()
        self.upstream.freed()

    cdef void _ends(self, bint orderly):
        """The server will say nothing more."""
        if self.state == FREE:
            self._give_place()  # to the next request, which may be one of this turn
            self._forsake()
        elif self.state == UNTIL_CLOSE and orderly:
            self.state = OVER
            self.asker.answer_goes_on(b"", True)
        elif self.state == TUNNEL:
            self.leave(False)
        elif self.state != OVER:
            self._fails("it ends before it is complete", True)

    def pause_writing(self, bint full=True):
        self.full = full
        if self.asker is not None:
            self.asker.upstream_is_full(full)

    def resume_writing(self):
        self.pause_writing(False)

    cdef void _fails(self, str why, bint closed):
        """The answer is none: the exchange ends here. `closed`: by the server, which had nothing more to say."""
        cdef Downstream asker = self.asker
        cdef bint began = self.state != HEAD, slot = False, place = False
        cdef bint fresh_try = closed and not began and self.used and self.buffer is None and self.interims == 0
        self.buffer = None
        if (
            fresh_try and asker is not None and asker.request_whole and not asker.replaced
            and (asker.idempotent or self.unwritten)
        ):
            # The server closed a kept connection just when it was used: that is no failure of the server.
            slot, place, self.slot, self.place = self.slot, self.place, False, False
            self.leave(False)
            self.upstream.again(asker, self.server, slot, place)
            return
        self.leave(False)
        if asker is None:
            return
        if began:
            asker.answer_is_cut(why)
        else:
            if not fresh_try:
                self.upstream.balancer.failed(self.server)
            asker.answer_fails(502, "the web server's answer cannot be used: " + why)
