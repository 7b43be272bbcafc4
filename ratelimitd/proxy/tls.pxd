"""TLS as a transport of its own; `tls.pyx` says what it promises."""

from ratelimitd.proxy.live cimport Listener


cdef enum Phase:
    HANDSHAKE
    OPEN
    PLAIN  # somebody speaks HTTP where TLS is expected, and is told so
    OVER


cdef class TlsTransport:
    cdef:
        object app  # the protocol that is served over it
        object raw  # the transport below
        object context
        object tls  # the ssl.SSLObject; None until the first byte
        object read
        object encrypt
        object incoming
        object outgoing
        object error  # what connection_lost will tell
        Phase phase
        bint opened  # the handshake was done once
        bint peer_ended  # it has said that nothing more will come
        bint ended  # we have

    cdef object _wrap(self)
    cdef bint _begins(self, bytes data)
    cdef void _established(self)
    cdef void _refused(self, error)
    cdef void _start(self)
    cdef bint _shake_hands(self)
    cdef void _take(self, bytes data)
    cdef bint _decrypt(self, list parts)
    cdef void _flush(self)
    cdef void _fail(self, error)
    cdef void _peer_said_end(self)
    cdef void _say_end(self)


cdef class TlsAcceptor(TlsTransport):
    cdef Listener listener


cdef class TlsConnector(TlsTransport):
    cdef void _give_up(self)

    cdef:
        str name
        object established
        dict sessions
        str server
