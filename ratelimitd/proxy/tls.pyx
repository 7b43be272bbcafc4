# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""TLS between a socket and the protocol that is served over it: a protocol below, a transport above.

OpenSSL sees memory alone (ssl.MemoryBIO), so a handshake may begin with bytes that were read before, such as
those behind a PROXY header. What one read of the socket brings is decrypted and delivered at once, and what is
written goes to the socket's transport at once: nothing waits here, so pausing and bounds are those of the
transport below. Records go through OpenSSL one by one, so that its buffers stay as small as one.
An end of the stream that the peer's TLS has not announced is an error: what it cut off was not whole.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t

from ratelimitd.proxy.bulk cimport MOST_READ_TLS, BulkReader, read_in_bulk
from ratelimitd.proxy.live cimport NO_TLS, SLOW, Listener

import ssl

from ratelimitd.proxy.tls_context import connection_error

cdef Py_ssize_t RECORD = 16384
cdef uint8_t HANDSHAKE_RECORD = 22
# Answers to a peer's own TLS messages (alerts, new keys) that it does not read.
cdef Py_ssize_t MOST_UNREAD = 262144

cdef object MemoryBIO = ssl.MemoryBIO
cdef object WantRead = ssl.SSLWantReadError
cdef object ZeroReturn = ssl.SSLZeroReturnError
cdef object SSLError = ssl.SSLError


cdef class TlsTransport:
    """`app` is the protocol above. Whoever accepts or connects says how a handshake begins and what its end
    means."""

    def __init__(self, context, app):
        self.context = context
        self.app = app

    cdef object _wrap(self):
        """The SSLObject over `incoming` and `outgoing`."""

    cdef bint _begins(self, bytes data):
        """Whether a handshake begins with these bytes, the first ones."""

    cdef void _established(self):
        """The handshake is done."""

    cdef void _refused(self, error):
        """The handshake has failed."""

    # --- from below -------------------------------------------------------------------------------------

    def connection_made(self, raw):
        self.raw = raw

    def data_received(self, bytes data):
        if self.phase == PLAIN:
            self.app.data_received(data)
        elif self.phase != OVER and not self.peer_ended and (self.tls is not None or self._begins(data)):
            self._take(data)  # behind its end OpenSSL would keep all that came, and read none of it

    def eof_received(self):
        if self.phase == PLAIN:
            return self.app.eof_received()
        if self.phase == OPEN and self.peer_ended:
            return True  # its end was told above, and the connection was not closed then
        if self.phase == OPEN and self.ended:
            return self.app.eof_received()
        if self.phase != OVER:
            self._fail(ConnectionAbortedError("over TLS: the connection ended without a close_notify"))
            self.raw.abort()
        return False

    def connection_lost(self, error):
        if self.phase == HANDSHAKE:
            self._refused(error or ConnectionResetError("over TLS: the connection ended during the handshake"))
        self.phase = OVER
        app, self.app = self.app, None
        if app is not None:
            app.connection_lost(error or self.error)
        self.tls = self.read = self.encrypt = self.incoming = self.outgoing = None

    def pause_writing(self):
        self.app.pause_writing()

    def resume_writing(self):
        self.app.resume_writing()

    # --- records ----------------------------------------------------------------------------------------

    cdef void _start(self):
        self.incoming = MemoryBIO()
        self.outgoing = MemoryBIO()
        self.tls = self._wrap()
        self.read = self.tls.read
        self.encrypt = self.tls.write

    cdef void _take(self, bytes data):
        """Decrypts what came, and delivers it in one piece."""
        cdef list parts = []
        cdef Py_ssize_t at = 0, size = PyBytes_GET_SIZE(data)
        try:
            while at < size:
                self.incoming.write(data if size <= RECORD else memoryview(data)[at : at + RECORD])
                at += RECORD
                if self.phase == HANDSHAKE and not self._shake_hands():
                    continue
                if not self._decrypt(parts):
                    break
        except SSLError as error:
            self._flush()
            self._fail(connection_error(error))
            return
        self._flush()
        if parts and self.phase == OPEN:
            self.app.data_received(parts[0] if len(parts) == 1 else b"".join(parts))
        if self.peer_ended and self.phase == OPEN:
            self._peer_said_end()

    cdef bint _shake_hands(self):
        try:
            self.tls.do_handshake()
        except WantRead:
            return False
        self.phase = OPEN
        self.opened = True
        self._flush()
        self._established()
        return self.phase == OPEN

    cdef bint _decrypt(self, list parts):
        """Reads all whole records; False when nothing more will come."""
        while True:
            try:
                data = self.read(RECORD)
            except WantRead:
                return True
            except ZeroReturn:
                data = b""
            if not data:
                self.peer_ended = True
                return False
            parts.append(data)
            if not self.incoming.pending:
                return True

    cdef void _flush(self):
        if self.outgoing.pending:
            self.raw.write(self.outgoing.read())
            if self.raw.get_write_buffer_size() > MOST_UNREAD and self.phase != OVER:
                self._fail(ConnectionAbortedError("over TLS: the peer does not read what it asks for"))
                self.raw.abort()

    cdef void _fail(self, error):
        """Ends the connection, which was not to end here, behind an alert that tells the peer why."""
        if self.phase == HANDSHAKE:
            self._refused(error)
        self.phase = OVER
        self.error = error
        self.raw.close()

    cdef void _peer_said_end(self):
        if not self.app.eof_received():
            self.close()

    cdef void _say_end(self):
        if not self.ended:
            self.ended = True
            try:
                self.tls.unwrap()
            except SSLError:
                pass  # the peer has not said so yet, and need not
            if self.outgoing.pending:
                self.raw.write(self.outgoing.read())

    # --- from above: what a transport is asked for ------------------------------------------------------

    def write(self, data):
        cdef Py_ssize_t at = 0, size = len(data)
        if self.phase == PLAIN:
            self.raw.write(data)
        if self.phase != OPEN or self.ended:
            return
        try:
            while at < size:
                self.encrypt(data if size <= RECORD else memoryview(data)[at : at + RECORD])
                self.raw.write(self.outgoing.read())
                at += RECORD
        except SSLError as error:
            self._fail(connection_error(error))

    def write_eof(self):
        if self.phase == OPEN:
            self._say_end()
        self.raw.write_eof()

    def can_write_eof(self):
        return True

    def close(self):
        if self.phase == HANDSHAKE:
            self._refused(None)
            self.raw.abort()
        else:
            if self.phase == OPEN:
                self._say_end()
            self.raw.close()
        self.phase = OVER

    def abort(self):
        self.phase = OVER
        self.raw.abort()

    def is_closing(self):
        return self.phase == OVER or self.raw.is_closing()

    def pause_reading(self):
        self.raw.pause_reading()

    def resume_reading(self):
        self.raw.resume_reading()

    def is_reading(self):
        return self.raw.is_reading()

    def get_write_buffer_size(self):
        return self.raw.get_write_buffer_size()

    def set_write_buffer_limits(self, high=None, low=None):
        self.raw.set_write_buffer_limits(high, low)

    def get_extra_info(self, name, default=None):
        if name == "ssl_object":
            return self.tls
        return self.raw.get_extra_info(name, default)

    def set_protocol(self, protocol):
        if isinstance(protocol, BulkReader):
            read_in_bulk(self.raw, self, MOST_READ_TLS)  # what is read there is delivered at once
        else:
            self.app = protocol

    def get_protocol(self):
        return self.app


cdef class TlsAcceptor(TlsTransport):
    """Towards a client: the protocol above has its connection at once, so that its deadlines and bounds hold
    for the handshake too. Handshakes that fail are counted."""

    def __init__(self, Listener listener, context, app):
        TlsTransport.__init__(self, context, app)
        self.listener = listener

    def connection_made(self, raw):
        self.raw = raw
        self.app.connection_made(self)

    cdef bint _begins(self, bytes data):
        cdef uint8_t first = <uint8_t>PyBytes_AS_STRING(data)[0]
        if first == HANDSHAKE_RECORD:
            self._start()
            return True
        self.listener.count_failure(NO_TLS)
        if c"A" <= first <= c"Z" or c"a" <= first <= c"z":
            self.phase = PLAIN
            self.app.refuse_plain(data)
        else:
            self.abort()
        return False

    cdef object _wrap(self):
        return self.context.wrap_bio(self.incoming, self.outgoing, server_side=True)

    cdef void _refused(self, error):
        """Without an error it was closed from above, by a deadline or because the worker drains."""
        if error is not None:
            self.listener.count_failure(NO_TLS)
        elif not self.listener.live.draining:
            self.listener.count_failure(SLOW)


cdef class TlsConnector(TlsTransport):
    """Towards a web server: the protocol above gets its connection when the handshake is done; the future
    `established` tells that to who waits, or why there is none. `sessions` remembers what lets the next
    handshake with `server` be a short one."""

    def __init__(self, context, app, str name, established, dict sessions, str server):
        TlsTransport.__init__(self, context, app)
        self.name = name
        self.established = established
        self.sessions = sessions
        self.server = server

    def connection_made(self, raw):
        self.raw = raw
        self._start()
        self._shake_hands()
        self._flush()

    cdef object _wrap(self):
        return self.context.wrap_bio(
            self.incoming, self.outgoing, server_hostname=self.name, session=self.sessions.get(self.server)
        )

    cdef void _established(self):
        if self.established.done():
            self._give_up()
        else:
            self.app.connection_made(self)
            self.established.set_result(None)

    cdef void _give_up(self):
        """Whoever waited has left. The protocol above never had a connection, and hears of no end."""
        self.app = None
        TlsTransport.abort(self)

    def abort(self):
        if self.phase == HANDSHAKE:
            self._give_up()
        else:
            TlsTransport.abort(self)

    cdef void _refused(self, error):
        self.app = None
        if not self.established.done():
            self.established.set_exception(error or ConnectionAbortedError("over TLS: closed during the handshake"))

    def connection_lost(self, error):
        if self.opened and self.tls.session is not None:
            self.sessions[self.server] = self.tls.session
        TlsTransport.connection_lost(self, error)

    def pause_writing(self):
        if self.phase == OPEN:
            self.app.pause_writing()

    def resume_writing(self):
        if self.phase == OPEN:
            self.app.resume_writing()
