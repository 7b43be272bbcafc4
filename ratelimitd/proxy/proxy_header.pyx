"""Reads the PROXY header that a connection begins with, and hands the connection over to whom it is for.

Only trusted proxies may bring one; who is not trusted, brings none or takes longer than `timeouts.head` is
closed without a word and counted. Until the hand-over the connection counts as an idle one, and is bounded as
all others are; under which address it counts after that is what the header says. What came behind the header
is handed over too.
"""

from cpython.bytes cimport PyBytes_GET_SIZE

from ratelimitd.proxy.admission cimport ROOM
from ratelimitd.proxy.clock cimport boottime_us
from ratelimitd.proxy.deadlines cimport Timed
from ratelimitd.proxy.live cimport NO_HEADER, SLOW, UNTRUSTED, HandshakeFailure, Listener, Policy

from ratelimitd.errors import ClientFault
from ratelimitd.http import proxy_protocol
from ratelimitd.proxy.identity import peer_of


cdef class ProxyHeaderReader(Timed):
    """An asyncio protocol. `follow(source)` makes the one that takes over; a source of None is the peer itself."""

    def __init__(self, Listener listener, follow):
        self.listener = listener
        self.live = listener.live
        self.follow = follow
        self.buffer = b""

    def connection_made(self, transport):
        cdef Policy policy = self.live.policy
        peer = peer_of(transport)
        self.transport = transport
        self.live.slots[self.listener.idle_slot] += 1
        self.live.connections.add(self)
        self.started_us = boottime_us()
        if peer is None:
            transport.abort()
        elif not policy.identify.peer(peer).trusted:
            self._refuse(UNTRUSTED)
        elif self.live.admission.enter(transport, policy.connections_bound, 0, 0, &self.entries) != ROOM:
            self.live.slots[self.live.refused_total_slot] += 1
            transport.abort()
        else:
            self.live.wheel.set(self, policy.head_ms)

    cdef void _refuse(self, HandshakeFailure failure):
        self.listener.count_failure(failure)
        self.transport.abort()

    def data_received(self, bytes data):
        self.buffer += data
        try:
            header = proxy_protocol.read(self.buffer)
        except ClientFault:
            self._refuse(NO_HEADER)
            return
        if header is None:
            return
        self.live.slots[self.live.bytes_in_slot] += header.size
        rest = self.buffer[header.size :]
        self._leave()  # its place is free for a moment, and then that of a client
        protocol = self.follow(header.source)
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)
        if rest and not self.transport.is_closing():
            protocol.data_received(rest)

    def eof_received(self):
        if self.transport.is_closing():
            return False
        self._refuse(NO_HEADER)
        return False

    def connection_lost(self, error):
        self._leave()

    def pause_writing(self):
        """Nothing is written here."""

    def resume_writing(self):
        """Nothing is written here."""

    cdef void _leave(self):
        self.live.wheel.forget(self)
        self.live.connections.discard(self)
        self.live.admission.leave(&self.entries)
        self.live.slots[self.listener.idle_slot] -= 1

    cdef void expire(self):
        self._refuse(SLOW)

    def idle_since_us(self):
        """When it was accepted, while nothing has come; else 0."""
        return self.started_us if PyBytes_GET_SIZE(self.buffer) == 0 else 0

    def close_if_idle(self):
        """For a worker that drains, or is short of descriptors; whether it was idle."""
        cdef bint idle = PyBytes_GET_SIZE(self.buffer) == 0
        if idle:
            self.transport.close()
        return idle
