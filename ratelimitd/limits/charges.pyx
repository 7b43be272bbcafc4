# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""What a request is to be charged to: the limits that apply to it, the keys they count it under, its cost.

`client` keys are made when a limit first applies to a client, `global` ones once per policy, others with each
request. What is found is this object's own memory until the next request. Whether there is room is the business of `decision`.
"""

import struct

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from ratelimitd.http.head cimport Head
from ratelimitd.http.matching cimport Matcher, RequestText
from ratelimitd.limits.table cimport FAILURE_CLOSED, FAILURE_LOCAL, FAILURE_OPEN, Charge, siphash

from ratelimitd.limits import fields, values

cdef enum:
    HEADER = 104  # h
    OTHER = 0  # what `values` finds: cookie, query, host, path, method, and lists

    MISSING_CLIENT = 0
    MISSING_SKIP = 1
    MISSING_DENY = 2

    NOT_MADE = -1  # the keys of a client under a limit that has not applied to it

    SALT = 8  # bytes of a key's material before its value: the salt of the limit's window, then the kind
    PREFIX = 9

_KINDS = {"client": CLIENT, "global": GLOBAL, "header": HEADER}
_ON_FAILURE = {"local": FAILURE_LOCAL, "open": FAILURE_OPEN, "closed": FAILURE_CLOSED}
_MISSING = {"client": MISSING_CLIENT, "skip": MISSING_SKIP, "deny": MISSING_DENY}


cdef void* room(size_t count, size_t size) except NULL:
    cdef void* memory = PyMem_Calloc(count if count else 1, size)
    if memory is NULL:
        raise MemoryError
    return memory


cdef class Client:
    def __init__(self, str address, bytes key_bytes, bint allowed=False, bint denied=False):
        self.address = address
        self.key_bytes = key_bytes
        self.allowed = allowed
        self.denied = denied

    def __dealloc__(self):
        PyMem_Free(self.keys)


cdef class Found:
    def __dealloc__(self):
        PyMem_Free(self.charges)


cdef class Charges:
    """Made from `limits` (policy.LimitRules), the segment's secret, and the generation of the policy."""

    def __init__(self, tuple limits, bytes secret, uint64_t generation):
        self.k0, self.k1 = struct.unpack("<QQ", secret)
        self.generation = generation
        self.compiled = limits
        self.matchers = [limit.matcher for limit in limits]
        self.names = tuple([limit.name for limit in limits])
        self.headers = [limit.parts[0][1].lower().encode("latin-1") for limit in limits]
        self.cost_headers = [limit.cost_header for limit in limits]
        self.needs_text = any([limit.needs_text for limit in limits])
        self.overrides, self.policy_lines, self.prefixes, self.suffixes = [], [], [], []
        self.limit_count = len(limits)
        self.limits = <LimitState*>room(self.limit_count, sizeof(LimitState))
        self.applied = <Applied*>room(self.limit_count, sizeof(Applied))
        groups = sum([1 + len(limit.overrides) for limit in limits])
        rates = sum([len(limit.rules) + sum([len(rules) for _, rules in limit.overrides]) for limit in limits])
        self.group = <Group*>room(groups, sizeof(Group))
        self.templates = <Charge*>room(rates, sizeof(Charge))
        self.salts = <uint64_t*>room(rates, sizeof(uint64_t))
        self.global_keys = <uint64_t*>room(rates + self.limit_count, sizeof(uint64_t))
        for position, limit in enumerate(limits):
            self._add(position, limit)

    def __dealloc__(self):
        PyMem_Free(self.limits)
        PyMem_Free(self.applied)
        PyMem_Free(self.group)
        PyMem_Free(self.templates)
        PyMem_Free(self.salts)
        PyMem_Free(self.global_keys)

    def _add(self, int position, limit):
        """Takes in one limit of `policy`, its rates and those of its overrides."""
        cdef LimitState* state = &self.limits[position]
        state.kind = _KINDS[limit.parts[0][0]] if len(limit.parts) == 1 and limit.parts[0][0] in _KINDS else OTHER
        state.missing = _MISSING[limit.missing]
        state.observe = limit.observe
        state.on_failure = _ON_FAILURE[limit.on_failure]
        state.has_matcher = limit.matcher is not None
        if state.has_matcher:
            state.start = (<Matcher>limit.matcher).start
            state.start_mask = (<Matcher>limit.matcher).start_mask
        state.has_overrides = bool(limit.overrides)
        state.has_cost_header = bool(limit.cost_header)
        state.most_cost = limit.most_cost
        state.concurrent = limit.concurrent
        state.concurrent_salt = limit.concurrent_salt
        state.allowed_slot = limit.allowed_slot
        state.limited_slot = limit.limited_slot
        state.observed_slot = limit.observed_slot
        state.fallback_slot = limit.fallback_slot
        state.base = self._add_group(limit, limit.rules)
        state.key_count = len(limit.rules)
        groups = {}
        for value, rules in limit.overrides:
            number = self.group_count
            self._add_group(limit, rules)
            groups[value] = number
            state.key_count = max(state.key_count, <int>len(rules))
        self.overrides.append(groups)
        state.key_at = self.key_capacity
        state.key_count += 1
        self.key_capacity += state.key_count
        if limit.ban is not None:
            state.has_ban = 1
            state.ban_salt = limit.ban.salt
            state.ban_us = limit.ban.for_us
            # The refusal that reaches `after` is the first one that does not fit.
            state.ban_charge.limit = limit.ban.after - 1
            state.ban_charge.slot_us = limit.ban.slot_us
            state.ban_charge.limit_id = limit.ban.limit_id
            state.ban_charge.cost = 1
            state.ban_charge.generation = self.generation & 0xFFFF
        self._make_keys(position, state.base, GLOBAL, NULL, 0, self.global_keys + state.key_at)

    cdef Group _add_group(self, limit, tuple rules):
        cdef Group group = Group(self.rate_count, len(rules))
        cdef Charge* charge
        for rule in rules:
            charge = &self.templates[self.rate_count]
            charge.slot_us = rule.slot_us
            charge.limit = rule.quota
            charge.cost = limit.cost
            charge.limit_id = rule.limit_id
            self.salts[self.rate_count] = rule.salt
            charge.generation = self.generation & 0xFFFF
            charge.shift = rule.shift
            charge.observe = limit.observe
            charge.on_failure = _ON_FAILURE[limit.on_failure]
            self.policy_lines.append(fields.policy_line(rule.item, rule.quota, rule.window_us))
            self.prefixes.append(fields.remaining_prefix(rule.item))
            self.suffixes.append(fields.remaining_suffix(rule.window_us))
            self.rate_count += 1
        self.group[self.group_count] = group
        self.group_count += 1
        return group

    # --- keys -------------------------------------------------------------------------------------------

    cdef uint64_t hash(self, uint64_t salt, uint8_t kind, const uint8_t* value, Py_ssize_t n) noexcept:
        """The key of a value in a limit's window (`keys.material` says of what). SipHash with the segment's
        secret: nobody can aim at a key."""
        cdef uint8_t small[512]
        cdef uint8_t* material = small
        cdef uint64_t key
        if n + PREFIX > 512:
            material = <uint8_t*>PyMem_Malloc(n + PREFIX)
            if material is NULL:  # no memory: one key for all such values can only refuse too much
                n, material = 0, small
        memcpy(material, &salt, SALT)
        material[SALT] = kind
        if n:
            memcpy(material + PREFIX, value, n)
        key = siphash(material, n + PREFIX, self.k0, self.k1)
        if material is not small:
            PyMem_Free(material)
        return key

    cdef void _make_keys(
        self, int limit, Group group, uint8_t kind, const uint8_t* value, Py_ssize_t n, uint64_t* keys
    ) noexcept:
        """The keys of a value: one for each rate of `group`, then, if the limit has them, that of its places."""
        cdef int i
        for i in range(group.count):
            keys[i] = self.hash(self.salts[group.first + i], kind, value, n)
        if self.limits[limit].concurrent:
            keys[group.count] = self.hash(self.limits[limit].concurrent_salt, kind, value, n)

    cdef Group _group_of(self, int limit, uint8_t kind, const uint8_t* value, Py_ssize_t n):
        """The rates by which a value is counted: the limit's, or its own."""
        cdef dict overrides = self.overrides[limit]
        if not self.limits[limit].has_overrides:
            return self.limits[limit].base
        number = overrides.get(PyBytes_FromStringAndSize(<const char*>value, n))
        return self.limits[limit].base if number is None else self.group[<int>number]

    cdef int _take_client(self, Client client) except -1:
        """Makes room for the keys of a client, once for a policy."""
        cdef int i
        PyMem_Free(client.keys)
        client.keys = NULL
        client.keys = <uint64_t*>room(1, self.key_capacity * sizeof(uint64_t) + self.limit_count * sizeof(Group))
        client.groups = <Group*>(client.keys + self.key_capacity)
        for i in range(self.limit_count):
            client.groups[i].count = NOT_MADE
        client.generation = self.generation
        return 0

    cdef Group _group_of_client(self, int limit, Client client):
        """The rates by which a limit counts a client, whose keys are made the first time."""
        cdef LimitState* state = &self.limits[limit]
        cdef Group* group = &client.groups[limit]
        cdef const uint8_t* value = <const uint8_t*>PyBytes_AS_STRING(client.key_bytes)
        cdef Py_ssize_t n = PyBytes_GET_SIZE(client.key_bytes)
        if group.count == NOT_MADE:
            group[0] = self._group_of(limit, CLIENT, value, n) if state.kind == CLIENT else state.base
            self._make_keys(limit, group[0], CLIENT, value, n, client.keys + state.key_at)
        return group[0]

    # --- what applies to a request ------------------------------------------------------------------------

    cdef int _header_tail(self, Head head, int limit, const uint8_t** value, Py_ssize_t* n):
        """The value of the field that a limit counts by."""
        cdef bytes name = self.headers[limit]
        cdef int at = head.find(name)
        if at < 0 or head.fields[at].value_end == head.fields[at].value_start:
            return SKIPPED if at < 0 or head.find_next(name, at) < 0 else TWICE
        if head.find_next(name, at) >= 0:
            return TWICE
        value[0] = head.base + head.fields[at].value_start
        n[0] = head.fields[at].value_end - head.fields[at].value_start
        return KEYED

    cdef uint32_t _cost(self, Head head, int limit):
        """What a request costs by the field that a trusted proxy set; 1 when it says nothing sensible."""
        cdef bytes name = self.cost_headers[limit]
        cdef int at = head.find(name)
        cdef int64_t cost = 0
        cdef uint32_t i
        if at < 0 or head.find_next(name, at) >= 0:
            return 1
        for i in range(head.fields[at].value_start, head.fields[at].value_end):
            if not c"0" <= head.base[i] <= c"9" or cost > self.limits[limit].most_cost:
                return 1 if not c"0" <= head.base[i] <= c"9" else self.limits[limit].most_cost
            cost = cost * 10 + head.base[i] - c"0"
        return <uint32_t>max(1, min(cost, <int64_t>self.limits[limit].most_cost))

    cdef int _charge(self, int limit, Group group, uint64_t* keys, uint32_t cost) except -1:
        """Notes that `limit` applies, with these keys."""
        cdef Applied* applied = &self.applied[self.applied_count]
        cdef Charge* charge
        cdef int i
        if self.charged + group.count > MOST_CHARGES:
            raise OverflowError("more than 16 rates apply to one request")
        applied.limit = limit
        applied.first = self.charged
        applied.count = group.count
        applied.over = 0
        self.applied_count += 1
        for i in range(group.count):
            charge = &self.charges[self.charged]
            charge[0] = self.templates[group.first + i]
            charge.key = keys[i]
            if cost:
                charge.cost = cost
            self.rate_of[self.charged] = group.first + i
            self.charged += 1
        if self.limits[limit].concurrent and self.place_count < MOST_HELD:
            self.places[self.place_count] = keys[group.count]
            self.place_count += 1
        return 0

    cdef int _collect_limit(self, int limit, Head head, Client client, RequestText text, bint trusted) except -1:
        """What one limit has to do with this request: KEYED when it is noted."""
        cdef LimitState* state = &self.limits[limit]
        cdef uint64_t keys[MOST_CHARGES + 1]
        cdef const uint8_t* value = NULL
        cdef Py_ssize_t n = 0
        cdef uint8_t kind = state.kind
        cdef int found = KEYED
        cdef Group group
        cdef uint32_t cost = self._cost(head, limit) if state.has_cost_header and trusted else 0
        cdef bytes tail
        if kind == GLOBAL:
            self._charge(limit, state.base, self.global_keys + state.key_at, cost)
            return KEYED
        if kind == HEADER:
            found = self._header_tail(head, limit, &value, &n)
        elif kind == OTHER:
            tail = values.tail(self.compiled[limit], head, client.key_bytes, text)
            if tail is None or tail == b"":
                found = TWICE if tail is None else SKIPPED
            else:
                kind = tail[0]
                value = <const uint8_t*>PyBytes_AS_STRING(tail) + 1
                n = PyBytes_GET_SIZE(tail) - 1
        if found == SKIPPED and state.missing != MISSING_CLIENT:
            return SKIPPED if state.missing == MISSING_SKIP else DENIED
        if found == TWICE:
            return TWICE
        if kind == CLIENT or found == SKIPPED:
            self._charge(limit, self._group_of_client(limit, client), client.keys + state.key_at, cost)
            return KEYED
        group = self._group_of(limit, kind, value, n)
        self._make_keys(limit, group, kind, value, n, keys)
        self._charge(limit, group, keys, cost)
        return KEYED

    cdef int collect(self, Head head, Client client, RequestText text, bint trusted) except -1:
        """Finds all that applies: KEYED, DENIED or TWICE."""
        cdef int i, found
        cdef uint64_t start = 0 if text is None else text.limit_start()
        cdef LimitState* state
        if client.generation != self.generation:
            self._take_client(client)
        for i in range(self.limit_count):
            state = &self.limits[i]
            if state.has_matcher and (
                (start ^ state.start) & state.start_mask or not (<Matcher>self.matchers[i]).matches(text)
            ):
                continue
            found = self._collect_limit(i, head, client, text, trusted)
            if found > KEYED:
                self.deciding = i
                return found
        return KEYED

    cdef Found keep(self):
        """What was found of the request in work, for `recall`."""
        cdef Found found = Found.__new__(Found)
        cdef size_t of_charges = self.charged * sizeof(Charge), of_applied = self.applied_count * sizeof(Applied)
        found.charges = <Charge*>room(1, of_charges + of_applied + self.charged * sizeof(int))
        found.applied = <Applied*>(found.charges + self.charged)
        found.rate_of = <int*>(found.applied + self.applied_count)
        found.charged, found.applied_count, found.place_count = self.charged, self.applied_count, self.place_count
        memcpy(found.charges, self.charges, of_charges)
        memcpy(found.applied, self.applied, of_applied)
        memcpy(found.rate_of, self.rate_of, self.charged * sizeof(int))
        memcpy(found.places, self.places, sizeof(found.places))
        return found

    cdef void recall(self, Found found) noexcept:
        """Its request is in work again."""
        self.charged, self.applied_count, self.place_count = found.charged, found.applied_count, found.place_count
        memcpy(self.charges, found.charges, found.charged * sizeof(Charge))
        memcpy(self.applied, found.applied, found.applied_count * sizeof(Applied))
        memcpy(self.rate_of, found.rate_of, found.charged * sizeof(int))
        memcpy(self.places, found.places, sizeof(found.places))
