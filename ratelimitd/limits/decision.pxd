"""The decision about one request; `decision.pyx` says how it is taken."""

from libc.stdint cimport int64_t, uint64_t

from ratelimitd.http.head cimport Head
from ratelimitd.http.matching cimport RequestText
from ratelimitd.limits.charges cimport Charges, Client, Found
from ratelimitd.limits.inflight cimport InFlight
from ratelimitd.limits.shared cimport Shared
from ratelimitd.limits.table cimport Decided, Grant, Table, Verdict


cdef enum Decision:
    ADMIT
    LIMIT  # over a limit: 429
    BUSY  # the count is behind a lock that is not free: 503
    DENY  # a value that a limit insists on is missing: 403
    BANNED  # refused too often: 403
    AMBIGUOUS  # what a limit counts by is there twice: 400
    AGAIN  # the clock was read too long ago: read it, then `decide_again`
    WAIT  # the store is to be asked for what `charges` says it lacks, then `decide_granted`


cdef class Limiter(Charges):
    cdef:
        Table table
        InFlight inflight
        int64_t* slots
        readonly Shared shared  # None: the table is all there is
        const Grant* grants  # the store's answers to the request in work
        int granted
        bint owes  # something was admitted that the store is yet to be told
        # the decision that was taken last
        Decided decided
        int deciding_rate  # -1: it was a limit of places
        uint64_t deciding_key
        int observed  # a limit that was over and only observes; -1: none
        int tightest  # rate of which the smallest share is left; -1: none
        int64_t left  # of the tightest

    cdef Decision decide(self, Head head, Client client, RequestText text, bint trusted, uint64_t now_us)
    cdef Decision decide_granted(self, Found found, uint64_t now_us, const Grant* grants, int granted)
    cdef void _begin(self, uint64_t now_us) noexcept
    cdef Decision _decide_found(self, uint64_t now_us)
    cdef void _count_fallback(self) noexcept
    cdef Decision decide_again(self, uint64_t now_us)
    cdef void release(self, uint64_t* held, int count) noexcept
    cdef Decision _hold_places(self) noexcept
    cdef Decision _conclude(self, Verdict verdict)
    cdef Decision _refuse(self)
    cdef int _count_refusal(self, int limit, uint64_t key) except -1
    cdef void _count_admitted(self) noexcept
    cdef void _find_tightest(self) noexcept
    cdef bytes admitted_lines(self)
    cdef bytes retry_line(self)
    cdef bytes refused_lines(self)
    cdef int64_t retry_after(self) noexcept
