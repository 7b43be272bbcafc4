"""One client connection and the request in work on it; `exchange.pyx` says what it promises."""

from libc.stdint cimport int64_t, uint64_t

from ratelimitd.http.head cimport Head
from ratelimitd.http.request_body cimport RequestBody
from ratelimitd.limits.charges cimport Client
from ratelimitd.proxy.live cimport Outcome, Policy
from ratelimitd.proxy.logged cimport Logged


cdef enum:
    MOST_PIPELINED = 65536  # bytes of requests that wait while one is answered
    MOST_DISCARDED = 65536  # bytes of a body that nobody wants


cdef enum State:
    IDLE  # between requests
    HEAD  # part of a head is there
    WAITING  # for units of a limit that the fleet shares
    BODY  # the body is read before a server is chosen
    ASKED  # the request is with the upstream, or on its way there
    ANSWERING
    DISCARDING  # the rest of a body that nobody wants
    LINGERING  # we have said our last word, and read so that it is not reset away
    CLOSED
    TUNNEL  # after a 101, until the tunnel that has the transport ends


cdef class Exchange(Logged):
    cdef:
        object transport
        object write
        State state
        bytes buffer  # what came and was not used up; in use from `at` on
        Py_ssize_t at
        size_t resume  # where to look on for the end of a head
        bint in_bulk  # it is read into the room for what is large
        bint reading_paused
        bint write_paused
        bint waits_turn  # nothing more is read or served until its turn comes
        bint ended  # the client has closed its side: nothing more will come
        bint was_overdue  # it was idle for too long, but something had come that was not read yet
        Py_ssize_t unsent  # bytes that waited for the client when its deadline was set
        # of the request in work
        bint keep_alive
        bint closes
        bint until_close  # only the end of the connection ends this answer
        bint expects_continue
        bint held_back  # with that: nothing of the body has come, and the server has not asked for it
        RequestBody body  # of the request; None: it has none
        bint as_text  # what its replies are, when it may have to wait for room
        int64_t body_left  # bytes of the body that were not read yet; in chunks: 1 until they are complete
        list parts
        bytes rate_lines
        uint64_t held[8]  # places under limits of concurrency, given back when the request ends
        int held_count
        int64_t moved  # body bytes since the deadline was set
        uint64_t asked_us
        uint64_t answered_us

    cdef void serve(self)
    cdef void begin_request(self, Policy policy)
    cdef void reply(
        self, int status, str detail, Outcome outcome, str limit, bytes added, bint unreadable, bint as_text
    )
    cdef void end_request(self, Outcome outcome)
    cdef void prepare_choice(self, Head head, Client client)
    cdef void _give_places_back(self)
    cdef void _count_out(self, Py_ssize_t n) noexcept
    cdef void await_next(self)
    cdef void pause_reading(self, bint pause)
    cdef void drop_upstream(self)
    cdef void bound_stream(self)
    cdef void cut(self)
    cdef void cut_answer(self)
    cdef void _await_sent(self)
    cdef void _leave_tunnel(self)
    cdef void _answered(self)
    cdef void _settle(self, bint close, bint unreadable)
    cdef void linger(self)
    cdef bint read_body(self, bint wanted)
    cdef void _end_held_back(self)
    cdef bint _is_slow_client(self) noexcept
    cdef bint _leaves_body(self) noexcept
    cdef void _close(self)
