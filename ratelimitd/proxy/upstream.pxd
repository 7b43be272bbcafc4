"""The side of the web servers; `upstream.pyx` says what each class promises."""

from libc.stdint cimport int64_t, uint64_t

from ratelimitd.http.body cimport ChunkedReader
from ratelimitd.http.head cimport Head
from ratelimitd.proxy.deadlines cimport Timed, Wheel
from ratelimitd.proxy.server cimport Server


cdef class Downstream(Timed):
    """Who asked: what an upstream connection answers to. It never learns how the question was framed."""

    cdef:
        Connection connection  # the upstream connection that works for it
        Attempt attempt  # or the one that is being opened
        Server server  # the one that was asked last
        bytes request  # what is to be sent, kept until the answer begins
        bint request_whole  # `request` is all of it: it can be sent once more
        bint hostless  # it has no Host: that of the server is put in
        bint idempotent
        bytes offered  # protocols to switch to; None: it stays with HTTP
        bint is_head
        int minor  # of the HTTP version; 0 knows no chunks: it gets the content and then the end

    cdef void answer_begins(self, Head head, bytes data, Py_ssize_t body_end, bint until_close, bint whole)
    cdef void answer_goes_on(self, bytes data, bint whole)
    cdef void answer_interim(self, bytes head)
    cdef void answer_fails(self, int status, str detail)
    cdef void answer_is_cut(self, str detail)
    cdef void protocol_switches(self, Head head, bytes protocols, bytes data)
    cdef void upstream_is_full(self, bint full)
    cdef void upstream_is_open(self)


cdef class Attempt:
    cdef:
        Downstream asker  # None: it has left
        object task


cdef class Upstream:
    cdef:
        readonly str name
        readonly list servers
        readonly Wheel wheel
        object loop
        object dial
        int next
        bint round_robin
        int keepalive
        uint64_t keepalive_idle_ms
        uint64_t connect_ms
        int eject_failures
        uint64_t eject_for_ms
        bint replaces_host
        int duration_slot
        Head head  # of answers; shared, since a head is used up before the next is parsed

    cdef void send(self, Downstream asker)
    cdef Server choose(self, set tried)
    cdef void _open(self, Downstream asker, Server server, set tried)
    cdef void failed(self, Server server) noexcept


cdef class Connection(Timed):
    cdef:
        readonly Upstream upstream
        readonly Server server
        Downstream asker
        object transport
        object write
        bytes buffer
        size_t resume
        int state
        int interims
        bint used  # it has served before
        bint keep
        bint paused
        bint full  # the server takes no more just now
        int64_t left
        ChunkedReader chunks
        uint64_t answered_us

    cdef void begin(self, Downstream asker)
    cdef void pause(self, bint pause)
    cdef void leave(self)
    cdef void release(self)
    cdef void _forsake(self)
    cdef void _read_head(self, bytes data)
    cdef Py_ssize_t _interim(self, Head head, bytes data, Py_ssize_t start, Py_ssize_t end)
    cdef void _frame(self, Head head, bytes data, Py_ssize_t end)
    cdef void _switch(self, Head head, bytes data)
    cdef void _pass_content(self)
    cdef void _read_body(self, bytes data)
    cdef Py_ssize_t _reach(self, bytes data, Py_ssize_t start)
    cdef void _ended(self, str why)
    cdef void _fails(self, str why, bint closed)
