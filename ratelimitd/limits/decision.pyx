# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""Whether one request may pass: one look at the table for all its keys, and what the client is told.

A request is charged to every limit that applies to it or to none; places of a limit of concurrency are taken
first and given back when a rate refuses. Nothing here reads a clock: the caller gives the instant, and takes
the one that was decided from `decided.at_us`. What a decision says is this object's own memory until the
next one.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy

from ratelimitd.http.head cimport Head
from ratelimitd.http.matching cimport RequestText
from ratelimitd.limits.charges cimport (
    CLIENT, DENIED, GLOBAL, KEYED, Applied, Charges, Client, Found, LimitState,
)
from ratelimitd.limits.inflight cimport ENTERED, FULL, Entered, InFlight
from ratelimitd.limits.shared cimport Shared
from ratelimitd.limits.table cimport (
    ADMITTED, BY_NOTHING, CHARGE_BANNED, CHARGE_UNKNOWN, FAILURE_OPEN, LACKING, REFUSED, STALE, UNKNOWN,
    Charge, Grant, Store, Table, Verdict,
)

from ratelimitd.limits import fields


cdef list untold_bans = []  # of this process: they outlive the Limiter that a reload replaces


def take_bans():
    """(key, limit id, until when) of each ban by a rule since the last time, where there is a fleet to tell."""
    taken = untold_bans[:]
    untold_bans.clear()
    return taken


cdef inline char* put(char* out, bytes text) noexcept:
    memcpy(out, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
    return out + PyBytes_GET_SIZE(text)


cdef class Limiter(Charges):
    """Decides by `limits` (policy.LimitRules) on `table` and `inflight`; counts decisions into `slots`, the
    caller's counter page."""

    def __init__(
        self, tuple limits, Table table, InFlight inflight, int64_t[::1] slots, bytes secret, uint64_t generation,
        Shared shared=None,
    ):
        Charges.__init__(self, limits, secret, generation)
        self.shared = shared
        self.table = table
        self.inflight = inflight
        self.slots = &slots[0]

    cdef Decision decide(self, Head head, Client client, RequestText text, bint trusted, uint64_t now_us):
        """Decides the request in `head`; `text` is its RequestText where `needs_text` says so. After ADMIT
        the first `held_count` of `held` are places that `release` must give back when the request ends."""
        cdef int collected
        self.granted = 0
        self._begin(now_us)
        self.applied_count = self.charged = self.place_count = 0
        if self.limit_count == 0 or client.allowed:
            return ADMIT
        collected = self.collect(head, client, text, trusted)
        if collected != KEYED:
            return DENY if collected == DENIED else AMBIGUOUS
        return self._decide_found(now_us)

    cdef Decision decide_granted(self, Found found, uint64_t now_us, const Grant* grants, int granted):
        """`decide` once more, for a request of which `found` was kept, with what the store answered to it: `grants`
        must stay until it is done."""
        self.grants, self.granted = grants, granted
        self._begin(now_us)
        self.recall(found)
        return self._decide_found(now_us)

    cdef void _begin(self, uint64_t now_us) noexcept:
        """Nothing is decided of the request in work."""
        self.deciding = self.deciding_rate = self.tightest = self.observed = -1
        self.owes = False
        self.held_count = 0
        self.decided.at_us = self.decided.retry_at_us = now_us

    cdef Decision _decide_found(self, uint64_t now_us):
        cdef Decision decision
        cdef Store store
        if self.place_count:
            decision = self._hold_places()
            if decision != ADMIT:
                return decision
        if self.charged == 0:
            self._count_admitted()
            return ADMIT
        if self.shared is not None:
            store = self.shared.view()
            return self._conclude(self.table.admit_shared(
                self.charges, self.charged, now_us, &store, self.grants, self.granted, &self.decided))
        return self._conclude(self.table.admit(self.charges, self.charged, now_us, &self.decided))

    cdef Decision decide_again(self, uint64_t now_us):
        """The repeat that AGAIN asks for."""
        cdef Store store
        if self.shared is not None:
            store = self.shared.view()
            return self._conclude(self.table.admit_shared_again(
                self.charges, self.charged, now_us, &store, self.grants, self.granted, &self.decided))
        return self._conclude(self.table.admit_again(self.charges, self.charged, now_us, &self.decided))

    cdef void release(self, uint64_t* held, int count) noexcept:
        """Gives back places that an admitted request held."""
        cdef int i
        for i in range(count):
            self.inflight.leave(held[i])

    cdef Decision _hold_places(self) noexcept:
        """Takes a place under each key in `places`, or none."""
        cdef int i, wanted = 0, taken = 0
        cdef LimitState* state
        cdef Entered entered
        for i in range(self.applied_count):
            state = &self.limits[self.applied[i].limit]
            self.applied[i].over = 0
            if not state.concurrent or wanted == self.place_count:
                continue
            entered = self.inflight.enter(self.places[wanted], state.concurrent)
            if entered == ENTERED:
                self.held[taken] = self.places[wanted]
                taken += 1
            elif state.observe:
                self.applied[i].over = entered == FULL
            elif entered == FULL or state.on_failure != FAILURE_OPEN:
                self.deciding_key = self.places[wanted]
                self.release(self.held, taken)
                self.deciding = self.applied[i].limit
                self.slots[state.limited_slot] += 1
                return LIMIT if entered == FULL else BUSY
            wanted += 1
        self.held_count = taken
        return ADMIT

    cdef Decision _conclude(self, Verdict verdict):
        cdef int i
        if self.shared is not None and self.shared.is_away:
            self._count_fallback()
        if verdict == ADMITTED:
            self._count_admitted()
            self._find_tightest()
            if self.shared is not None:
                for i in range(self.charged):
                    self.owes |= self.charges[i].source == BY_NOTHING and not self.charges[i].over
            return ADMIT
        if verdict == STALE:
            return AGAIN
        if verdict == LACKING:
            self.release(self.held, self.held_count)
            self.held_count = 0
            return WAIT
        if verdict != REFUSED:
            for i in range(self.applied_count):
                if self.applied[i].count and (
                    self.charges[self.applied[i].first].over == CHARGE_UNKNOWN if verdict == UNKNOWN
                    else self.limits[self.applied[i].limit].on_failure != FAILURE_OPEN
                ):
                    self.deciding = self.applied[i].limit
            if self.deciding < 0:
                return ADMIT
            self.slots[self.limits[self.deciding].limited_slot] += 1
        self.release(self.held, self.held_count)
        self.held_count = 0
        return BUSY if verdict != REFUSED else self._refuse()

    cdef Decision _refuse(self):
        """A rate, or a ban, has refused the request."""
        cdef Applied* applied
        cdef int i, j
        cdef Decision decision = LIMIT
        for i in range(self.applied_count):
            applied = &self.applied[i]
            for j in range(applied.first, applied.first + applied.count):
                if self.charges[j].over == CHARGE_BANNED and not self.charges[j].observe:
                    self.deciding = applied.limit
                    self.deciding_key = self.charges[j].key
                    decision = BANNED
                elif j == self.decided.refused_by and decision == LIMIT:
                    self.deciding = applied.limit
                    self.deciding_rate = self.rate_of[j]
                    self.deciding_key = self.charges[j].key
        self.slots[self.limits[self.deciding].limited_slot] += 1
        if decision == LIMIT and self.limits[self.deciding].has_ban:
            for i in range(self.applied_count):
                if self.applied[i].limit == self.deciding:
                    self._count_refusal(self.deciding, self.charges[self.applied[i].first].key)
        return decision

    cdef void _count_fallback(self) noexcept:
        """Counts a decision that was taken without the store, for each limit that needs one."""
        cdef int i
        for i in range(self.applied_count):
            if self.applied[i].count:
                self.slots[self.limits[self.applied[i].limit].fallback_slot] += 1

    cdef int _count_refusal(self, int limit, uint64_t key) except -1:
        """Counts a refusal of a key, in a window of the ban's own; the one too many bans the key."""
        cdef LimitState* state = &self.limits[limit]
        cdef Charge charge = state.ban_charge
        cdef Decided counted
        counted.at_us = self.decided.at_us
        charge.key = self.hash(state.ban_salt, CLIENT, <const uint8_t*>&key, sizeof(key))
        cdef int limit_id = self.templates[state.base.first].limit_id
        if self.table.admit(&charge, 1, self.decided.at_us, &counted) == REFUSED:
            self.table.ban(key, limit_id, counted.at_us + state.ban_us, counted.at_us)
            if self.shared is not None:
                untold_bans.append((key, limit_id, counted.at_us + state.ban_us))
        return 0

    cdef void _count_admitted(self) noexcept:
        """Counts the decision of each limit that applied, once."""
        cdef Applied* applied
        cdef LimitState* state
        cdef int i, j
        cdef bint over
        for i in range(self.applied_count):
            applied = &self.applied[i]
            state = &self.limits[applied.limit]
            over = applied.over
            for j in range(applied.first, applied.first + applied.count):
                over |= self.charges[j].over
            self.slots[state.observed_slot if over else state.allowed_slot] += 1
            if over:
                self.observed = applied.limit

    cdef void _find_tightest(self) noexcept:
        """The rate of which the smallest share is left; `global` and `observe` ones are nobody's own."""
        cdef LimitState* state
        cdef int64_t left, quota, tightest_quota = 1
        cdef int i, j
        for i in range(self.applied_count):
            state = &self.limits[self.applied[i].limit]
            if state.kind == GLOBAL or state.observe:
                continue
            for j in range(self.applied[i].first, self.applied[i].first + self.applied[i].count):
                quota = self.charges[j].limit
                left = max(0, quota - <int64_t>self.charges[j].used)
                if self.tightest < 0 or <double>left * tightest_quota < <double>self.left * quota:
                    self.tightest = self.rate_of[j]
                    self.left = left
                    tightest_quota = quota

    # --- what the client is told --------------------------------------------------------------------------

    cdef bytes admitted_lines(self):
        """The two RateLimit fields of an admitted answer; empty when no limit of the client's own applies."""
        cdef bytes policy, prefix, suffix, lines
        cdef char digits[20]
        cdef char* out
        cdef uint64_t left = <uint64_t>self.left
        cdef int n = 0
        if self.tightest < 0:
            return b""
        policy = self.policy_lines[self.tightest]
        prefix = self.prefixes[self.tightest]
        suffix = self.suffixes[self.tightest]
        while n == 0 or left:
            n += 1
            digits[20 - n] = c"0" + <char>(left % 10)
            left //= 10
        lines = PyBytes_FromStringAndSize(
            NULL, PyBytes_GET_SIZE(policy) + PyBytes_GET_SIZE(prefix) + n + PyBytes_GET_SIZE(suffix)
        )
        out = put(put(PyBytes_AS_STRING(lines), policy), prefix)
        memcpy(out, digits + 20 - n, n)
        put(out + n, suffix)
        return lines

    cdef int64_t retry_after(self) noexcept:
        """Whole seconds until the refused cost fits, rounded up; 1 where nobody can know."""
        cdef int64_t wait_us = <int64_t>(self.decided.retry_at_us - self.decided.at_us)
        if self.decided.retry_at_us <= self.decided.at_us:
            return 1
        return (wait_us + 999_999) // 1_000_000

    cdef bytes retry_line(self):
        """Retry-After of a refused answer: for who is banned, when that ends."""
        return b"Retry-After: %d\r\n" % self.retry_after()

    cdef bytes refused_lines(self):
        """Retry-After and the two RateLimit fields of a refused answer."""
        cdef int64_t wait = self.retry_after()
        if self.deciding_rate < 0:
            return b"Retry-After: %d\r\n%b%b0;t=%d\r\n" % (
                wait,
                fields.policy_line(self.names[self.deciding], self.limits[self.deciding].concurrent, 0),
                fields.remaining_prefix(self.names[self.deciding]),
                wait,
            )
        return b"Retry-After: %d\r\n%b%b0;t=%d\r\n" % (
            wait, self.policy_lines[self.deciding_rate], self.prefixes[self.deciding_rate], wait
        )
