# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""A tunnel: two connections after a 101, and bytes that nobody reads any more, both ways.

Each side is read only while the other one takes what came, so at most `bounds.buffer` is held in each
direction, or one read more over TLS, whose reads are its own. A side that has said its last word is told so to the other, which may go on; one that is reset
resets the other. `timeouts.tunnel` of silence in both directions ends both. Requests know nothing of this:
an End takes the place of the transport's protocol, and that one hears only of the end.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from ratelimitd.proxy.deadlines cimport Timed
from ratelimitd.proxy.live cimport Live
from ratelimitd.proxy.reset cimport reset

cdef enum:
    MOST_READ = 32768
    LEAST_READ = 4096

# One for a worker: what was read is copied out before anything else is read.
cdef bytearray ROOM = bytearray(MOST_READ)


cdef class End:
    """One side of a tunnel: an asyncio protocol, a buffered one where the transport knows those."""

    def __cinit__(self, transport, owner, int bytes_slot, bint full, bint ended):
        self.transport = transport
        self.owner = owner
        self.bytes_slot = bytes_slot
        self.full = full
        self.paused = not transport.is_reading()
        self.ended = ended

    def get_buffer(self, sizehint):
        return self.tunnel.room

    def buffer_updated(self, Py_ssize_t nbytes):
        self._take(PyBytes_FromStringAndSize(PyByteArray_AS_STRING(ROOM), nbytes))

    def data_received(self, bytes data):
        self._take(data)

    cdef void _take(self, bytes data):
        self.tunnel.live.slots[self.bytes_slot] += PyBytes_GET_SIZE(data)
        self.tunnel.moved()
        self.other.write(data)

    cdef void write(self, bytes data):
        if not self.lost:
            self.transport.write(data)

    def eof_received(self):
        self.ended = True
        self.tunnel.moved()
        self.other.write_eof()
        return self.transport.can_write_eof()  # where sides cannot be closed one by one, this ends both

    cdef void write_eof(self):
        """The other side has said its last word; when this one has, too, both end once all is sent."""
        if self.lost:
            return
        if self.ended:
            self.transport.close()
            self.other.transport.close()
        elif self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def pause_writing(self):
        self.full = True
        self.other.pause(True)

    def resume_writing(self):
        self.full = False
        self.other.pause(False)

    cdef void pause(self, bint pause):
        if pause != self.paused and not self.ended and not self.lost:
            self.paused = pause
            if pause:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def connection_lost(self, error):
        owner, self.owner = self.owner, None
        self.lost = True
        self.tunnel._has_lost(self, error)
        owner.connection_lost(error)


cdef class Tunnel(Timed):
    def __cinit__(self, Live live, End client, End server):
        cdef Py_ssize_t most_read = max(min(MOST_READ, live.policy.buffer_bound // 2), LEAST_READ)
        self.live = live
        self.client, self.server = client, server
        client.other, server.other = server, client
        client.tunnel = server.tunnel = self
        self.room = memoryview(ROOM)[:most_read]
        self.most_held = max(live.policy.buffer_bound - most_read, 0)

    cdef void open(self, bytes early, bytes late):
        """Begins with what came too early from the client, and from the server right behind its 101."""
        cdef End end
        self.moved()
        for end in (self.client, self.server):
            end.transport.set_protocol(end)
            end.transport.set_write_buffer_limits(high=self.most_held)
        self.server.write(early)
        if PyBytes_GET_SIZE(late):
            self.server._take(late)
        self.client.pause(self.server.full)
        self.server.pause(self.client.full)
        if self.client.ended:
            self.server.write_eof()

    cdef void moved(self):
        self.live.wheel.set(self, self.live.policy.tunnel_ms)

    cdef void expire(self):
        """Nothing has moved for long enough."""
        self.client.transport.abort()
        self.server.transport.abort()

    cdef void _has_lost(self, End end, object error):
        cdef End other = end.other
        if other.lost:
            self.live.wheel.forget(self)
            self.client = self.server = None
            end.other = other.other = None  # no circle is left for the collector
        elif error is not None and not end.ended:
            reset(other.transport)
        else:
            other.transport.close()
