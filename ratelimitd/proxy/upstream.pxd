"""The side of the web servers; `upstream.pyx` says what each class promises."""

from libc.stdint cimport int64_t, uint64_t

from ratelimitd.http.body cimport ChunkedReader
from ratelimitd.http.head cimport Head
from ratelimitd.overload.waiting cimport Place
from ratelimitd.proxy.balancing cimport Balancer, Kept, Server
from ratelimitd.proxy.deadlines cimport Timed, Wheel


cdef class Downstream(Timed):
    """Who asked: what an upstream connection answers to. It never learns how the question was framed."""

    cdef:
        Connection connection  # the upstream connection that works for it
        Attempt attempt  # or the one that is being opened
        Place place  # or where it waits for room
        Upstream waits_for  # whose that attempt or place is
        int priority
        uint64_t client_hash  # for servers that are chosen by client
        bint replaced  # the kept connection that it had was closed: the next one is the last
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
    cdef void turned_away(self)
    cdef void leave_upstream(self, bint whole)


cdef class Attempt:
    cdef:
        Downstream asker  # None: it has left
        bint slot  # it holds a place of the upstream's concurrency
        bint place  # and one of the server's connections, until the connection is there
        object task


cdef class Upstream(Timed):
    cdef:
        readonly str name
        readonly Wheel wheel
        readonly Balancer balancer
        int keepalive
        uint64_t keepalive_idle_ms
        bint replaces_host
        bint by_client  # a server is chosen by `client_hash`
        bint bounded  # requests may have to wait
        int duration_slot
        Head head  # of answers; shared, since a head is used up before the next is parsed

    cdef void send(self, Downstream asker)
    cdef void again(self, Downstream asker, Server server, bint slot, bint place)
    cdef void forget(self, Downstream asker)
    cdef bint is_awaited(self) noexcept
    cdef void give_slot(self) noexcept
    cdef void freed(self)


cdef class Connection(Kept):
    cdef:
        readonly Upstream upstream
        readonly Server server
        Attempt attempt  # that it was opened for
        Downstream asker
        bint in_work  # the server has a request, whether or not somebody waits for the answer
        bint slot  # that request holds a place of the upstream's concurrency
        bint place  # this connection holds one of the server's
        bint unwritten  # a kept connection that was found reset when it was used
        bint retired  # it serves nobody after the one who has it now
        readonly str address  # of the other end
        uint64_t idle_until  # tick
        object transport
        object write
        bytes buffer
        size_t resume
        int state
        int interims
        bint used  # it has served before
        bint keep
        bint in_bulk  # it reads into the room for what is large
        bint paused
        bint full  # the server takes no more just now
        int64_t left
        ChunkedReader chunks
        uint64_t answered_us

    cdef void begin(self, Downstream asker)
    cdef bint is_over(self) noexcept
    cdef void pause(self, bint pause)
    cdef void leave(self, bint whole)
    cdef void release(self)
    cdef void _lie_idle(self)
    cdef void _end_work(self) noexcept
    cdef void _give_place(self) noexcept
    cdef void _forsake(self)
    cdef void _read_head(self, bytes data)
    cdef Py_ssize_t _interim(self, Head head, bytes data, Py_ssize_t start, Py_ssize_t end)
    cdef void _frame(self, Head head, bytes data, Py_ssize_t end)
    cdef void _switch(self, Head head, bytes data)
    cdef void _read_body(self, bytes data)
    cdef Py_ssize_t _reach(self, bytes data, Py_ssize_t start)
    cdef void _ends(self, bint orderly)
    cdef void _fails(self, str why, bint closed)
