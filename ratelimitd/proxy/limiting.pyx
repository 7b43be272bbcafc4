# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""May a request pass, by the limits: at once by the table, or after the store of the fleet was asked.

While it waits for units a request stays as it came, at the front of the buffer, with the head that was parsed of it;
what comes behind it waits too. Who waits is answered within the store's deadline, one way or the other.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t

from ratelimitd.fleet.leases cimport Waiter
from ratelimitd.http.head cimport Head
from ratelimitd.http.matching cimport RequestText
from ratelimitd.http.request cimport accepts_text
from ratelimitd.limits.charges cimport Found
from ratelimitd.limits.decision cimport ADMIT, AGAIN, AMBIGUOUS, BANNED, DENY, LIMIT, WAIT, Decision, Limiter
from ratelimitd.proxy.clock cimport boottime_us
from ratelimitd.proxy.exchange cimport MOST_PIPELINED, WAITING
from ratelimitd.proxy.live cimport DENIED, LIMITED, MALFORMED, Outcome, Policy
from ratelimitd.proxy.upload cimport Upload

from ratelimitd.limits import values

cdef bytes NOTHING = b""


cdef class Limiting(Upload):
    """A client's connection, seen from the limits that hold for its request."""

    cdef void forward(self, Head head):
        """It may pass: on with it."""

    cdef bint decide(self, Head head, RequestText text):
        """Asks the limits; False: refused, and answered."""
        cdef Policy policy = self.policy
        cdef Decision decision = policy.limiter.decide(head, self.client, text, self.trusted, boottime_us())
        while decision == AGAIN:
            decision = policy.limiter.decide_again(boottime_us())
        if decision == WAIT:
            return self._wait(head, text)
        self.decided_us = policy.limiter.decided.at_us
        if policy.limiter.shared is not None:
            self._tell_instant(policy)
        return self._conclude(head, text, decision)

    cdef bint _conclude(self, Head head, RequestText text, Decision decision):
        """What was decided is done: True, it passes; False: refused, and answered."""
        cdef Policy policy = self.policy
        cdef int i
        if decision == ADMIT:
            self.rate_lines = policy.limiter.admitted_lines() if policy.rate_limit_fields else NOTHING
            for i in range(policy.limiter.held_count):
                self.held[i] = policy.limiter.held[i]
            self.held_count = policy.limiter.held_count
            if policy.limiter.observed >= 0 and policy.log is not None:
                self.limit = policy.limiter.names[policy.limiter.observed]
            return True
        if decision == LIMIT or decision == BANNED:
            self._note_refusal(head, text)
        return self._refuse_limited(head, decision)

    # --- limits that the fleet shares -------------------------------------------------------------------

    cdef void _tell_instant(self, Policy policy):
        """On the store's clock; and a debt, if there is one, is on its way."""
        self.decided_us += policy.limiter.shared.offset_us
        if policy.limiter.owes:
            self.live.leases.owe(policy.limiter.charges, policy.limiter.charged)

    cdef bint _wait(self, Head head, RequestText text):
        """Has the store asked for what is lacking."""
        cdef Limiter limiter = self.policy.limiter
        self.policy.keep_head()
        self.waiting_head, self.waiting_text, self.waiting_found = head, text, limiter.keep()
        self.state = WAITING
        self.live.wheel.clear(self)
        self.waiter = self.live.leases.wait(self, limiter.charges, limiter.charged, boottime_us())
        return False

    def store_answered(self, Waiter waiter):
        """All that was asked for was answered, or will not be: on with the request."""
        cdef Policy policy = self.policy
        cdef Head head = self.waiting_head
        cdef RequestText text = self.waiting_text
        cdef Decision decision
        head.base = <const uint8_t*>PyBytes_AS_STRING(self.buffer)  # to which more may have come
        decision = self._decide_answered(waiter, self.waiting_found)
        if decision == WAIT:
            return
        self.waiter = self.waiting_head = self.waiting_text = self.waiting_found = None
        self.pause_reading(PyBytes_GET_SIZE(self.buffer) - self.at > MOST_PIPELINED)
        if decision != ADMIT:
            self.live.leases.leave(waiter)
        if self._conclude(head, text, decision):
            self.forward(head)
        policy.release_head(head)
        self.let_go()

    cdef void let_go(self) noexcept:
        """Holds nothing that was used up, but for a request that waits."""
        if self.at == PyBytes_GET_SIZE(self.buffer) and self.state != WAITING:
            self.buffer = NOTHING
            self.at = self.resume = 0

    cdef Decision _decide_answered(self, Waiter waiter, Found found):
        """Decides by what was granted. A lease that is gone meanwhile is asked for again while there is time; then
        the request is decided as if the store was away."""
        cdef Limiter limiter = self.policy.limiter
        cdef uint64_t now_us = boottime_us()
        cdef Decision decision = limiter.decide_granted(found, now_us, waiter.grants, waiter.granted)
        while decision == AGAIN:
            decision = limiter.decide_again(boottime_us())
        if decision == WAIT:
            if self.live.leases.wait_on(waiter, limiter.charges, limiter.charged, now_us):
                return WAIT
            limiter.shared.forced = True
            decision = limiter.decide_granted(found, now_us, waiter.grants, waiter.granted)
            while decision == AGAIN:
                decision = limiter.decide_again(boottime_us())
            limiter.shared.forced = False
        self.decided_us = limiter.decided.at_us
        self._tell_instant(self.policy)
        if decision == ADMIT and waiter.alone and waiter.granted and waiter.grants[0].units:
            self.decided_us = waiter.time_us - limiter.shared.wall_offset_us
        return decision

    cdef int _note_refusal(self, Head head, RequestText text) except -1:
        """For the operators: which key it was. Its text is made once, and only when it gets a place."""
        cdef Limiter limiter = self.policy.limiter
        if self.live.refusals.note(limiter.deciding_key):
            self.live.refusals.keep(
                limiter.deciding_key,
                limiter.names[limiter.deciding],
                values.tail(limiter.compiled[limiter.deciding], head, self.client.key_bytes, text),
            )
        return 0

    cdef bint _refuse_limited(self, Head head, Decision decision):
        cdef Policy policy = self.policy
        cdef str limit = policy.limiter.names[policy.limiter.deciding] if policy.limiter.deciding >= 0 else None
        cdef bytes added
        if decision == LIMIT:
            added = policy.limiter.refused_lines() if policy.rate_limit_fields else policy.limiter.retry_line()
            return self.turn_away(
                head, 429, "too many requests: try again after the time in Retry-After", LIMITED, limit, added)
        if decision == DENY:
            return self.turn_away(head, 403, "what a limit counts by is missing", DENIED, limit, NOTHING)
        if decision == BANNED:
            added = policy.limiter.retry_line()
            return self.turn_away(head, 403, "this client is banned for a while", DENIED, limit, added)
        if decision == AMBIGUOUS:
            self.reply(400, "what a limit counts by is there twice", MALFORMED, limit, NOTHING, True, False)
            return False
        return self.turn_away(
            head, 503, "the count is not available just now: try again", LIMITED, limit, b"Retry-After: 1\r\n")

    cdef bint turn_away(self, Head head, int status, str detail, Outcome outcome, str limit, bytes added):
        """Answers a request that was understood and goes nowhere; False, as all that answer here."""
        if self.policy.log is not None:
            self.request_id = self.policy.forwarding.id_of_refused(head, self.trusted)
        self.reply(status, detail, outcome, limit, added, False, accepts_text(head))
        return False
