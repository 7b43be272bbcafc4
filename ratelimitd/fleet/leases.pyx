# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""Asks the store for units: one call for each key that lacks them, all of a tick of the loop in one flush.

Promises: one call in flight for a key and worker, who comes meanwhile waits for the next; nothing is sent twice
but a script that the store did not have; nobody waits longer than the deadline, and then the breaker opens; what
was granted and can be used by nobody goes back with the next call. A unit is spent no earlier than it was granted
and no later than the slot that it is charged to: ends are counted from the sending, less a thousandth, since
clocks are slewed. Why that keeps a limit over all nodes: ARCHITECTURE.md, "The fleet".
"""

import random
from collections import deque

import hiredis
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from ratelimitd.fleet.taking cimport MOST_PAIRS, TAKE_NUMBERS, key_name, take_command, whole_command
from ratelimitd.fleet.wire cimport Asked, Wire
from ratelimitd.limits.shared cimport Shared
from ratelimitd.limits.table cimport BY_NOTHING, Charge, Grant, LeftOver, Prepared, Store, Table

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec* now)
    const int CLOCK_BOOTTIME

cdef enum:
    OK = 0
    ERROR = 1
    LATE = 2
    LONGEST_DENIAL_US = 10000000
    MOST_RETURNS = 20000
    SLOTS = 31
    RECENT_AFTER_LOSS = 0
    LARGEST_NONCE = 65535
    FEWEST_NUMBERS = 9  # the script stops early where the key is another one
    NUMBERS = 10


cdef inline uint64_t clock_us() noexcept:
    cdef timespec now
    clock_gettime(CLOCK_BOOTTIME, &now)
    return <uint64_t>now.tv_sec * 1000000 + now.tv_nsec // 1000


cdef inline uint64_t lessened(uint64_t left_us) noexcept:
    return left_us - left_us // 1000


cdef class Waiter:
    def __dealloc__(self):
        PyMem_Free(self.grants)
        PyMem_Free(self.slots)


cdef class Call(Asked):
    cdef int take_numbers(self, const int64_t* numbers, int count) except -1:
        return self.leases.take_numbers(self, numbers, count)


cdef class Leases:
    """Those of one worker. `links` are fleet.links.Links; `key_prefix(limit_id)` is
    what the name of a key begins with; `store_lost(why)` opens the breaker and tells the supervisor; `slots` and
    `measures` say where calls are counted."""

    def __init__(self, Table table, Shared shared, loop, key_prefix, store_lost, int64_t[::1] slots, measures,
                 uint64_t deadline_us):
        self.table = table
        self.shared = shared
        self.loop = loop
        self.key_prefix = key_prefix
        self.store_lost = store_lost
        self.counters = &slots[0]
        self.first_result = measures.first_result
        self.duration = measures.duration
        self.bound_count = len(measures.duration_bounds_us)
        for i, bound in enumerate(measures.duration_bounds_us):
            self.bounds[i] = bound
        self.deadline_us = deadline_us
        self.calls, self.returns, self.prefixes = {}, {}, {}
        self.queued = []
        self.sent = deque()
        self.nonces = random.getrandbits(64)

    def use(self, links):
        """Where calls go from now on."""
        self.links = links

    # --- who waits ------------------------------------------------------------------------------------------

    cdef Waiter wait(self, object owner, Charge* charges, int n, uint64_t now_us):
        """Asks for what `charges` lack, on behalf of `owner`."""
        cdef Waiter waiter = Waiter()
        waiter.owner = owner
        waiter.grants = <Grant*>PyMem_Malloc(n * sizeof(Grant))
        waiter.slots = <uint64_t*>PyMem_Malloc(n * sizeof(uint64_t))
        if waiter.grants is NULL or waiter.slots is NULL:
            raise MemoryError
        waiter.alone = n == 1
        waiter.deadline_us = now_us + self.deadline_us
        self.wait_on(waiter, charges, n, now_us)
        return waiter

    cdef bint wait_on(self, Waiter waiter, Charge* charges, int n, uint64_t now_us):
        """Asks once more, for what was there and is gone; False: there is no time for it. The store was in time, or
        the breaker would be open: that this loop stood still is no reason to decide without it, once."""
        cdef int i
        if now_us >= waiter.deadline_us:
            if waiter.was_late:
                return False
            waiter.was_late = True
            waiter.deadline_us = now_us + self.deadline_us
        for i in range(n):
            if charges[i].source == BY_NOTHING and not charges[i].observe and not charges[i].over:
                self._join(self._call_for(&charges[i]), waiter, &charges[i])
        return True

    cdef int owe(self, Charge* charges, int n) except -1:
        """Tells the store, some time soon, what was admitted without its grant; nobody waits for that."""
        cdef int i
        for i in range(n):
            if charges[i].source == BY_NOTHING and not charges[i].over:
                self._call_for(&charges[i])
        return 0

    cdef int leave(self, Waiter waiter) except -1:
        """The request of `waiter` was not admitted: what was granted to it goes back."""
        waiter.owner = None
        return self.give_back(waiter)

    cdef int give_back(self, Waiter waiter) except -1:
        cdef int i
        cdef uint64_t until_us = clock_us() + LONGEST_DENIAL_US
        for i in range(waiter.granted):
            if waiter.grants[i].units:
                self._return(
                    waiter.grants[i].key, waiter.slots[i], waiter.grants[i].units, waiter.grants[i].incarnation, until_us
                )
        waiter.granted = 0
        return 0

    cdef Call _call_for(self, Charge* charge):
        """The call for a key: the one under way, or a new one at the end of this tick."""
        cdef Call call = self.calls.get(charge.key)
        if call is None:
            call = Call()
            call.leases = self
            call.charge = charge[0]
            call.waiters = []
            self.calls[charge.key] = call
            self._queue(call)
        elif not call.is_sent:
            call.charge = charge[0]  # of a newer configuration, perhaps
        return call

    cdef int _join(self, Call call, Waiter waiter, Charge* charge) except -1:
        waiter.outstanding += 1
        if not call.is_sent:
            self._add(call, waiter, charge.cost)
            return 0
        if call.later is None:
            call.later = []
        call.later.append((waiter, charge.cost))
        call.charge.limit, call.charge.generation = charge.limit, charge.generation
        return 0

    cdef int _add(self, Call call, Waiter waiter, uint32_t cost) except -1:
        """One more who waits for the call that is about to be sent."""
        call.waiters.append((waiter, cost))
        call.need += cost
        call.least = min(call.least, cost) if call.least else cost
        call.holds |= not waiter.alone
        return 0

    cdef int _queue(self, Call call) except -1:
        self.queued.append(call)
        if not self.flushing:
            self.flushing = True
            self.loop.call_soon(self._flush)
        return 0

    # --- calls ------------------------------------------------------------------------------------------------

    def _flush(self):
        """At the end of a tick: all calls in one write."""
        cdef Call call
        cdef list queued = self.queued
        cdef uint64_t now_us = clock_us(), first_due_us = now_us + self.deadline_us
        cdef Wire only = self.links.only
        self.queued = []
        self.flushing = False
        for call in queued:
            if call.is_over:
                continue
            call.command = self._command(call, now_us)
            if call.command is None:
                self.calls.pop(call.charge.key, None)
                self._release(call.waiters + (call.later or []))
                continue
            call.sent_us = now_us
            call.is_sent, call.is_answered = True, False
            call.due_us = min(call.due_us or now_us + self.deadline_us, now_us + self.deadline_us)
            first_due_us = min(first_due_us, call.due_us)
            self.sent.append(call)
            if only is not None:
                only.call(call.command, call)
            else:
                self.links.call(self._name(call), call.command, call)
        self.links.flush()
        if self.sent:
            self._watch(first_due_us, now_us)

    cdef bytes _prefix(self, Call call):
        cdef bytes prefix = self.prefixes.get(call.charge.limit_id)
        if prefix is None:
            prefix = self.prefixes[call.charge.limit_id] = self.key_prefix(call.charge.limit_id)
        return prefix

    cdef bytes _name(self, Call call):
        return key_name(self._prefix(call), call.charge.key)

    cdef bytes _command(self, Call call, uint64_t now_us):
        """What is sent for a call; None: the entry's lock is not free."""
        cdef Prepared prepared
        cdef Store store = self.shared.view()
        cdef double numbers[TAKE_NUMBERS]
        cdef double pairs[2 * MOST_PAIRS]
        cdef uint64_t since_us = self.shared.recharge_since_us()
        cdef uint64_t slot_us = call.charge.slot_us
        cdef int n = 0, age, returned = 0
        cdef int64_t recent = -1
        if self.table.prepare_call(&call.charge, now_us, &store, call.is_lost, &prepared) < 0:
            return None
        call.epoch = store.epoch
        if prepared.returned:
            pairs[0], pairs[1] = prepared.returned_slot, prepared.returned
            returned = 1
        for slot, units, incarnation, until_us in self.returns.pop(call.charge.key, ()) if self.returns else ():
            if now_us < <uint64_t>until_us and returned < 4 and (incarnation == prepared.known or not prepared.known):
                prepared.known = incarnation
                pairs[2 * returned], pairs[2 * returned + 1] = slot, units
                returned += 1
        n = returned
        if call.is_lost:
            recent = RECENT_AFTER_LOSS
        elif prepared.stale and prepared.own_count:
            recent = min(<int64_t>SLOTS, <int64_t>((now_us - min(now_us, since_us)) // slot_us) + 1)
        if recent >= 0:
            for age in range(prepared.own_count):
                if prepared.own[age]:
                    pairs[2 * n], pairs[2 * n + 1] = age, prepared.own[age]
                    n += 1
        numbers[0], numbers[1], numbers[2], numbers[3] = slot_us, call.charge.limit, call.need, prepared.want
        numbers[4], numbers[5] = self.shared.nodes_now(), prepared.known
        self.nonces = self.nonces * 6364136223846793005ULL + 1442695040888963407ULL
        numbers[6] = 1 + (self.nonces >> 33) % LARGEST_NONCE
        numbers[7], numbers[8] = prepared.debt, max(1, call.least)
        numbers[9] = self.deadline_us if call.holds else 0
        numbers[10], numbers[11] = recent, returned
        return take_command(self._prefix(call), call.charge.key, numbers, pairs, n)

    cdef int _return(self, uint64_t key, uint64_t slot, uint32_t units, uint16_t incarnation, uint64_t until_us) except -1:
        """Units that nobody can use go back with the next call for their key. If there is none soon, the window
        forgets them in time."""
        if units:
            if len(self.returns) >= MOST_RETURNS:
                self.returns.clear()
            self.returns.setdefault(key, []).append((slot & 0xFFFF, units, incarnation, until_us))
        return 0

    # --- answers ----------------------------------------------------------------------------------------------

    def answered(self, Call call, answer):
        """The store's answer to a call, where it is not just numbers that came at once."""
        cdef int64_t numbers[NUMBERS]
        cdef int i
        if type(answer) is list and FEWEST_NUMBERS <= len(answer) <= NUMBERS:
            for i in range(len(answer)):
                numbers[i] = answer[i]
            self.take_numbers(call, numbers, len(answer))
        elif call.is_over:
            return
        elif isinstance(answer, hiredis.ReplyError) and str(answer).startswith("NOSCRIPT"):
            self.links.call(self._name(call), whole_command(call.command), call)
            self.links.flush()
        else:
            self._fail(f"the store answered: {answer}", ERROR)

    cdef int take_numbers(self, Call call, const int64_t* answer, int count) except -1:
        """What the script answered."""
        if call.is_over:
            return 0  # what it grants is lost: it counts until its window is over
        if count != NUMBERS and (count != FEWEST_NUMBERS or answer[0] >= 0):
            return self._fail(f"the store answered {count} numbers", ERROR)
        self._count(OK, <int64_t>(clock_us() - call.sent_us))
        call.is_answered = True
        while self.sent and (<Call>self.sent[0]).is_answered:
            self.sent.popleft()
        return self._take_answer(call, answer)

    cdef int _take_answer(self, Call call, const int64_t* answer) except -1:
        cdef LeftOver left
        cdef int64_t granted = answer[0]
        cdef uint64_t sent_us = call.sent_us, denied_us = 0, end_us = 0, now_us
        cdef uint32_t units = 0
        if granted < 0:
            if call.is_lost:
                self._fail("the store keeps losing a key", ERROR)
                return 0
            call.is_lost = True
            call.is_sent = False
            self._queue(call)
            return 0
        self.shared.note(answer[4], sent_us)
        now_us = clock_us()
        if answer[6] > 0:
            denied_us = sent_us + min(<uint64_t>answer[6], <uint64_t>LONGEST_DENIAL_US)
        if answer[1] > 0:
            units = answer[1]
            end_us = sent_us + lessened(answer[3])
        # A denial holds for all only when nothing is left over: an odd rest may do for the next one.
        self.table.apply(
            &call.charge, now_us, call.epoch, answer[7], units, <uint64_t>answer[2] & 0xFFFF, end_us,
            denied_us if call.least <= 1 else 0, &left)
        self._return(call.charge.key, left.slot, left.units, answer[7], now_us + LONGEST_DENIAL_US)
        self._serve(call, answer, denied_us or now_us + call.charge.slot_us)
        return 0

    cdef int _serve(self, Call call, const int64_t* answer, uint64_t retry_at_us) except -1:
        """Hands out what was granted, in the order in which it was asked for, all or none to each."""
        cdef Waiter waiter
        cdef Grant* grant
        cdef uint64_t left = answer[0], key = call.charge.key
        cdef list waiters = call.waiters
        cdef int i
        del self.calls[key]
        for waiter, cost in waiters:
            if waiter.owner is None:
                continue
            i = 0
            while i < waiter.granted and waiter.grants[i].key != key:
                i += 1
            grant = &waiter.grants[i]
            waiter.granted = max(waiter.granted, i + 1)
            grant.key = key
            grant.retry_at_us = retry_at_us
            grant.used = answer[5]
            grant.incarnation = answer[7]
            grant.units = 0
            grant.end_us = 0
            if left >= <uint64_t>cost:
                left -= <uint64_t>cost
                grant.units = cost
                waiter.slots[i] = answer[8]
                if not waiter.alone:
                    grant.end_us = call.sent_us + lessened(answer[9])
            waiter.time_us = answer[4]
        self._return(key, answer[8], left, answer[7], call.sent_us + LONGEST_DENIAL_US)
        if call.later is not None:
            self._ask_again(call)
        self._release(waiters)
        return 0

    def _ask_again(self, Call call):
        """For those who came while the call was under way."""
        cdef Call following = self._call_for(&call.charge)
        cdef Waiter waiter
        for waiter, cost in call.later:
            if waiter.owner is not None:
                self._add(following, waiter, cost)
                following.due_us = min(following.due_us or waiter.deadline_us, waiter.deadline_us)

    cdef int _release(self, list waiters) except -1:
        """One answer less to wait for; who has all of them goes on."""
        cdef Waiter waiter
        for waiter, _ in waiters:
            waiter.outstanding -= 1
            if waiter.outstanding == 0:
                if waiter.owner is None:
                    self.give_back(waiter)
                else:
                    waiter.owner.store_answered(waiter)
        return 0

    # --- when there is none -----------------------------------------------------------------------------------

    cdef int _watch(self, uint64_t due_us, uint64_t now_us) except -1:
        """Looks after the calls at `due_us`, if not before."""
        if self.timer is not None:
            if self.timer_us <= due_us:
                return 0
            self.timer.cancel()
        self.timer_us = due_us
        self.timer = self.loop.call_later((due_us - min(due_us, now_us)) / 1e6, self._expire, False)
        return 0

    def _expire(self, bint believed):
        """The deadline of a call may be over. A loop that stood still reads what has come meanwhile before it
        believes that."""
        cdef Call call
        cdef uint64_t now_us = clock_us(), due_us = now_us + self.deadline_us
        self.timer = None
        if not self.sent:
            return
        for call in self.sent:
            if not call.is_answered:
                due_us = min(due_us, call.due_us)
        if now_us < due_us:
            self._watch(due_us, now_us)
        elif not believed:
            self.timer_us = now_us
            self.timer = self.loop.call_later(0.001, self._expire, True)
        else:
            self._fail("it did not answer within store_options.deadline", LATE)

    def lost(self, why):
        """The store cannot be reached any more."""
        self._fail(str(why), ERROR)

    cdef int _fail(self, str why, int result) except -1:
        """Nobody waits any longer: each limit does what it says of a store that is away."""
        cdef Call call
        cdef list waiting = []
        self.store_lost(why)
        for call in list(self.calls.values()):
            call.is_over = True
            if call.is_sent:
                self._count(result, -1)
            waiting += call.waiters
            waiting += call.later or ()
        self.calls = {}
        self.sent.clear()
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self._release(waiting)
        return 0

    cdef void _count(self, int result, int64_t duration_us) noexcept:
        cdef int i = 0
        self.counters[self.first_result + result] += 1
        if duration_us < 0:
            return
        while i < self.bound_count and duration_us > self.bounds[i]:
            i += 1
        self.counters[self.duration + i] += 1
        self.counters[self.duration + self.bound_count + 1] += duration_us
