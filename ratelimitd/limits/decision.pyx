# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""Whether one request may pass: its keys, one look at the table for all of them, and what the client is told.

A request is charged to every limit that applies to it or to none. `client` and `global` keys are made once
per client and policy; a header's value is hashed with each request. Nothing here reads a clock: the caller
gives the instant, and takes the one that was decided from `decided.at_us`. What a decision says is this
object's own memory until the next one.
"""

import struct

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy

from ratelimitd.http.head cimport Head
from ratelimitd.limits.table cimport (
    ADMITTED, MAX_CHARGES, REFUSED, STALE, TIMED_OUT, Charge, Table, Verdict, siphash,
)

from ratelimitd.limits import fields

cdef enum:
    CLIENT = 99  # c
    GLOBAL = 103  # g
    HEADER = 104  # h

    MISSING_CLIENT = 0
    MISSING_SKIP = 1
    MISSING_DENY = 2

    SKIPPED = 0
    KEYED = 1
    DENIED = 2
    TWICE = 3

    PREFIX = 3  # bytes of a key's material before its value: id of the limit's window, kind

_KINDS = {"client": CLIENT, "global": GLOBAL, "header": HEADER}
_MISSING = {"client": MISSING_CLIENT, "skip": MISSING_SKIP, "deny": MISSING_DENY}


cdef inline char* put(char* out, bytes text) noexcept:
    memcpy(out, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
    return out + PyBytes_GET_SIZE(text)


cdef class Client:
    def __init__(self, str address, bytes key_bytes, bint allowed=False, bint denied=False):
        self.address = address
        self.key_bytes = key_bytes
        self.allowed = allowed
        self.denied = denied


cdef class Limiter:
    """Decides by `rules` (at most 16) on `table`; counts decisions into `slots`, the caller's counter page."""

    def __init__(self, rules: tuple, Table table, int64_t[::1] slots, bytes secret, uint64_t generation):
        if len(rules) > MOST_RULES:
            raise ValueError(f"{len(rules)} rates, and at most {MOST_RULES} can be charged at once")
        self.table = table
        self.slots = &slots[0]
        self.k0, self.k1 = struct.unpack("<QQ", secret)
        self.generation = generation
        self.rules = rules
        self.count = len(rules)
        self.headers = [rule.header for rule in rules]
        self.policy_lines = [fields.policy_line(rule.item, rule.quota, rule.window_us) for rule in rules]
        self.prefixes = [fields.remaining_prefix(rule.item) for rule in rules]
        self.suffixes = [fields.remaining_suffix(rule.window_us) for rule in rules]
        self.needs_text = any(rule.matcher is not None for rule in rules)
        for position, rule in enumerate(rules):
            self._add(position, rule)

    def _add(self, int i, rule):
        cdef Source* source = &self.sources[i]
        cdef Charge* charge = &self.templates[i]
        source.kind = _KINDS[rule.source]
        source.missing = _MISSING[rule.missing]
        source.observe = rule.observe
        source.open_on_failure = rule.open_on_failure
        source.has_matcher = rule.matcher is not None
        source.position = rule.position
        source.quota = rule.quota
        source.allowed_slot = rule.allowed_slot
        source.limited_slot = rule.limited_slot
        source.observed_slot = rule.observed_slot
        charge.slot_us = rule.slot_us
        charge.limit = rule.quota
        charge.cost = rule.cost
        charge.limit_id = rule.limit_id
        charge.generation = self.generation & 0xFFFF
        charge.shift = rule.shift
        charge.observe = rule.observe
        source.global_key = self._hash(i, GLOBAL, NULL, 0)

    cdef uint64_t _hash(self, int rule, uint8_t kind, const uint8_t* value, Py_ssize_t n) noexcept:
        """The key of a value under a rule. SipHash with the segment's secret: nobody can aim at a key."""
        cdef uint8_t small[512]
        cdef uint8_t* material = small
        cdef uint64_t key
        if n + PREFIX > 512:
            material = <uint8_t*>PyMem_Malloc(n + PREFIX)
            if material is NULL:  # no memory: one key for all such values can only refuse too much
                n, material = 0, small
        material[0] = self.templates[rule].limit_id & 0xFF
        material[1] = self.templates[rule].limit_id >> 8
        material[2] = kind
        if n:
            memcpy(material + PREFIX, value, n)
        key = siphash(material, n + PREFIX, self.k0, self.k1)
        if material is not small:
            PyMem_Free(material)
        return key

    cdef void _keys_of(self, Client client):
        cdef const uint8_t* value = <const uint8_t*>PyBytes_AS_STRING(client.key_bytes)
        cdef int i
        for i in range(self.count):
            client.keys[i] = self._hash(i, CLIENT, value, PyBytes_GET_SIZE(client.key_bytes))
        client.generation = self.generation

    cdef int _header_key(self, Head head, Client client, int rule, uint64_t* key) except -1:
        """The key of a field's value; what stands in for one that is absent or empty."""
        cdef bytes name = self.headers[rule]
        cdef int at = head.find(name)
        cdef Py_ssize_t n = 0
        if at >= 0:
            if head.find_next(name, at) >= 0:
                return TWICE
            n = head.fields[at].value_end - head.fields[at].value_start
        if n == 0:
            if self.sources[rule].missing == MISSING_SKIP:
                return SKIPPED
            if self.sources[rule].missing == MISSING_DENY:
                return DENIED
            key[0] = client.keys[rule]
            return KEYED
        key[0] = self._hash(rule, HEADER, head.base + head.fields[at].value_start, n)
        return KEYED

    cdef int _collect(self, Head head, Client client, object text) except -1:
        """Fills `charges` with what this request is to be charged to; KEYED, DENIED or TWICE."""
        cdef int i, found
        cdef uint64_t key
        if client.generation != self.generation:
            self._keys_of(client)
        self.charged = 0
        for i in range(self.count):
            if self.sources[i].has_matcher and not self.rules[i].matcher(text):
                continue
            if self.sources[i].kind == CLIENT:
                key = client.keys[i]
            elif self.sources[i].kind == GLOBAL:
                key = self.sources[i].global_key
            else:
                found = self._header_key(head, client, i, &key)
                if found == SKIPPED:
                    continue
                if found != KEYED:
                    self.deciding = i
                    return found
            self.charges[self.charged] = self.templates[i]
            self.charges[self.charged].key = key
            self.rule_of[self.charged] = i
            self.charged += 1
        return KEYED

    cdef Decision decide(self, Head head, Client client, object text, uint64_t now_us):
        """Decides the request in `head`; `text` is its RequestText where `needs_text` says so."""
        cdef int collected
        self.deciding = self.tightest = -1
        self.decided.at_us = now_us
        if self.count == 0 or client.allowed:
            return ADMIT
        collected = self._collect(head, client, text)
        if collected == DENIED:
            return DENY
        if collected == TWICE:
            return AMBIGUOUS
        if self.charged == 0:
            return ADMIT
        return self._conclude(self.table.admit(self.charges, self.charged, now_us, &self.decided))

    cdef Decision decide_again(self, uint64_t now_us):
        """The repeat that AGAIN asks for."""
        return self._conclude(self.table.admit_again(self.charges, self.charged, now_us, &self.decided))

    cdef Decision _conclude(self, Verdict verdict) noexcept:
        cdef int i
        if verdict == ADMITTED:
            self._count_admitted()
            return ADMIT
        if verdict == REFUSED:
            self.deciding = self.rule_of[self.decided.refused_by]
            self.slots[self.sources[self.deciding].limited_slot] += 1
            return LIMIT
        if verdict == STALE:
            return AGAIN
        for i in range(self.charged):
            if not self.sources[self.rule_of[i]].open_on_failure:
                self.deciding = self.rule_of[i]
                return BUSY
        return ADMIT

    cdef void _count_admitted(self) noexcept:
        """Counts the decision of each limit once, and finds the rate of which the smallest share is left;
        `global` and `observe` ones are nobody's own business."""
        cdef Source* source
        cdef int64_t left
        cdef int i, j
        cdef bint over
        for i in range(self.charged):
            source = &self.sources[self.rule_of[i]]
            if i == 0 or source.position != self.sources[self.rule_of[i - 1]].position:
                over = self.charges[i].over
                j = i + 1
                while j < self.charged and self.sources[self.rule_of[j]].position == source.position:
                    over |= self.charges[j].over
                    j += 1
                self.slots[source.observed_slot if over else source.allowed_slot] += 1
            if source.kind == GLOBAL or source.observe:
                continue
            left = source.quota - <int64_t>self.charges[i].used
            if left < 0:
                left = 0
            if self.tightest < 0 or <double>left * self.sources[self.tightest].quota < <double>self.left * source.quota:
                self.tightest = self.rule_of[i]
                self.left = left

    cdef bytes admitted_lines(self):
        """The two RateLimit fields of an admitted answer; empty when no limit of the client's own applies."""
        cdef bytes policy, prefix, suffix, lines
        cdef char digits[20]
        cdef char* out
        cdef int64_t left = self.left
        cdef int n = 0
        if self.tightest < 0:
            return b""
        policy, prefix, suffix = self.policy_lines[self.tightest], self.prefixes[self.tightest], self.suffixes[self.tightest]
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
        """Whole seconds until the refused cost fits, rounded up."""
        cdef int64_t wait_us = <int64_t>(self.decided.retry_at_us - self.decided.at_us)
        if self.decided.retry_at_us <= self.decided.at_us:
            return 1
        return (wait_us + 999_999) // 1_000_000

    cdef bytes refused_lines(self):
        """Retry-After and the two RateLimit fields of a refused answer."""
        cdef int64_t wait = self.retry_after()
        return b"Retry-After: %d\r\n%b%b0;t=%d\r\n" % (
            wait, self.policy_lines[self.deciding], self.prefixes[self.deciding], wait
        )
