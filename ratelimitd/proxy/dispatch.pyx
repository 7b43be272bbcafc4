# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""How a request gets to a web server: at once, after a wait for room, or not at all.

An idle connection of the chosen server is used, the one that was used last, or a new one is opened. Where the
upstream or its servers are bounded, a request takes its place first or waits for one (`overload/waiting`);
those that wait are looked after when a place is given back here, and at each tick, since other workers give
places back too. A server that cannot be reached is followed by another one, as far as attempts and budget go:
nothing of the request was sent then.
"""

from ratelimitd.overload.retry_budget cimport RetryBudget
from ratelimitd.overload.waiting cimport Place, Waiting
from ratelimitd.proxy.balancing cimport Balancer, Server
from ratelimitd.proxy.deadlines cimport Wheel
from ratelimitd.proxy.places cimport NONE_LEFT, TAKEN, UNCOUNTED, Places, Taken
from ratelimitd.proxy.upstream cimport Attempt, Connection, Downstream, Upstream

from ratelimitd.proxy import dial as _dial

cdef frozenset SHORTAGES = _dial.SHORTAGES


cdef class Dispatcher(Upstream):
    """The servers of `balancer`, asked by the settings of an upstream. `dial(server address, protocol factory)`
    is a coroutine function that opens a connection or raises OSError within the connect timeout; `places` bounds
    the requests in flight."""

    def __init__(
        self, config, Balancer balancer, Places places, Wheel wheel, loop, dial, bint replaces_host, int duration_slot
    ):
        Upstream.__init__(self, config, balancer, wheel, replaces_host, duration_slot)
        self.loop = loop
        self.dial = dial
        self.places = places
        self.attempts = config.retry_attempts
        if self.attempts and len(balancer.servers) > 1:
            self.budget = RetryBudget(config.retry_budget, 1000 // wheel.tick_ms)
        if places is not None or any([server.max_connections for server in config.servers]):
            self.bounded = True
            ticks = 0 if config.queue_wait_ms == 0 else max(1, config.queue_wait_ms // wheel.tick_ms)
            self.waiting = Waiting(config.queue_size, ticks)
        elif len(balancer.servers) == 1:
            self.lone = balancer.servers[0]

    cdef void send(self, Downstream asker):
        cdef Server server = self.lone
        asker.replaced = False
        if server is not None and server.newest is not None and not server.state.down:
            (<Connection>server.pop()).begin(asker)
            return
        if self.budget is not None:
            self.budget.note(self.wheel.now)
        if self.waiting is not None and self.waiting.count:
            self._wait(asker)
            self.freed()
            return
        server = self._find(asker)
        if server is not None:
            self._ask(asker, server)
        elif self.balancer.full:
            self._wait(asker)
        else:
            self._none_up(asker)

    cdef Server _find(self, Downstream asker):
        """A server with room for one request more, and the places for it, which `_ask` takes over; None when
        no server is up, or when `balancer.full`."""
        cdef Server server = self.balancer.choose(asker.client_hash, None)
        cdef Taken taken
        self.slot = False
        if server is None:
            return None
        if self.places is not None:
            taken = self.places.take()
            if taken == NONE_LEFT:
                self.balancer.full = True
                return None
            self.slot = taken == TAKEN
        if self._take_place(server):
            return server
        if self.slot:
            self.places.give()
        self.balancer.full = True
        return None

    cdef bint _take_place(self, Server server) noexcept:
        """Whether there may be a connection to `server`: one that lies idle has its place."""
        cdef Taken taken
        self.place = False
        if server.places is None or server.idle_count:
            return True
        taken = server.places.take()
        self.place = taken == TAKEN
        return taken != NONE_LEFT

    cdef void _ask(self, Downstream asker, Server server):
        cdef Connection connection
        if server.idle_count:
            connection = <Connection>server.pop()
            connection.slot = self.slot
            connection.begin(asker)
        else:
            self._open(asker, server, self.slot, self.place)

    cdef void _none_up(self, Downstream asker):
        asker.answer_fails(503, "no web server is up: they fail their health checks or failed lately")

    # --- waiting for room -----------------------------------------------------------------------------

    cdef void _wait(self, Downstream asker):
        """Gives `asker` a place in the queue, that of somebody of a lower priority if need be."""
        cdef Place lower, place = self.waiting.join(asker, asker.priority, self.wheel.now)
        if place is None:
            lower = self.waiting.lowest(asker.priority)
            if lower is not None:
                self._turn_away(lower)
                place = self.waiting.join(asker, asker.priority, self.wheel.now)
        if place is None:
            asker.turned_away()
            return
        asker.place = place
        asker.waits_for = self
        if self.waiting.count == 1:
            self.wheel.set(self, 0)

    cdef void _turn_away(self, Place place):
        cdef Downstream asker = <Downstream>place.waiter
        self.waiting.leave(place)
        asker.place = None
        asker.waits_for = None
        asker.turned_away()

    cdef bint is_awaited(self) noexcept:
        return self.waiting is not None and self.waiting.count > 0

    cdef void give_slot(self) noexcept:
        self.places.give()

    cdef void freed(self):
        cdef Place place
        cdef Server server
        cdef Downstream asker
        if self.turning or self.waiting is None:
            return
        self.turning = True
        try:
            while self.waiting.count:
                place = self.waiting.first(self.wheel.now)
                asker = <Downstream>place.waiter
                server = self._find(asker)
                if server is None and self.balancer.full:
                    break
                self.waiting.leave(place)
                asker.place = None
                asker.waits_for = None
                if server is None:
                    self._none_up(asker)
                    continue
                self._ask(asker, server)
                if asker.connection is not None:
                    asker.upstream_is_open()
        finally:
            self.turning = False

    cdef void expire(self):
        """A tick while somebody waits."""
        cdef Place place = self.waiting.overdue(self.wheel.now)
        while place is not None:
            self._turn_away(place)
            place = self.waiting.overdue(self.wheel.now)
        self.freed()
        if self.waiting.count:
            self.wheel.set(self, 0)

    cdef void forget(self, Downstream asker):
        cdef Attempt attempt = asker.attempt
        asker.waits_for = None
        if asker.place is not None:
            self.waiting.leave(asker.place)
            asker.place = None
        if attempt is not None:
            asker.attempt = None
            attempt.asker = None
            if attempt.slot:
                attempt.slot = False
                self.places.give()
                self.freed()

    # --- opening a connection -------------------------------------------------------------------------

    cdef void again(self, Downstream asker, Server server, bint slot, bint place):
        cdef Taken taken = TAKEN if place else UNCOUNTED
        asker.replaced = True
        if server.places is not None and not place:
            taken = server.places.take()
        if taken != NONE_LEFT:
            self._open(asker, server, slot, taken == TAKEN)
            return
        if slot:
            self.places.give()
        self._wait(asker)

    cdef void _open(self, Downstream asker, Server server, bint slot, bint place):
        cdef Attempt attempt = Attempt()
        attempt.asker = asker
        attempt.slot = slot
        attempt.place = place
        asker.attempt = attempt
        asker.waits_for = self
        server.took(1)  # so that those who come while it is opened choose others
        attempt.task = self.loop.create_task(self._opened(attempt, server))

    async def _opened(self, Attempt attempt, Server server):
        """Opens a connection for whoever waits in `attempt`, to the next server where one cannot be reached."""
        cdef Connection connection
        cdef set tried = set()
        while True:
            if attempt.asker is not None:
                attempt.asker.server = server
            try:
                _, connection = await self.dial(server.address, lambda: Connection(self, server, attempt))
                if connection.is_over():
                    raise OSError("it was closed before anything was asked")
                break
            except OSError as error:
                server.took(-1)
                if error.errno not in SHORTAGES:
                    self.balancer.failed(server)
                tried.add(server)
                if attempt.place:
                    attempt.place = False
                    server.places.give()
                server = self._following(attempt, tried)
                if server is None:
                    self._unreached(attempt)
                    return
                if server.idle_count:
                    self._begin(attempt, <Connection>server.pop())
                    return
                server.took(1)
        server.took(-1)
        if attempt.asker is None:
            connection.release()
        else:
            self._begin(attempt, connection)

    cdef Server _following(self, Attempt attempt, set tried):
        """Another server for the same request, if it may be tried there."""
        cdef Server server
        if attempt.asker is None or self.budget is None or len(tried) > self.attempts:
            return None
        server = self.balancer.choose(attempt.asker.client_hash, tried)
        if server is None or not self.budget.allows(self.wheel.now) or not self._take_place(server):
            return None
        attempt.place = self.place
        return server

    cdef void _begin(self, Attempt attempt, Connection connection):
        cdef Downstream asker = attempt.asker
        asker.attempt = None
        asker.waits_for = None
        connection.slot, attempt.slot = attempt.slot, False
        connection.begin(asker)
        if connection.asker is not None:
            asker.upstream_is_open()

    cdef void _unreached(self, Attempt attempt):
        cdef Downstream asker = attempt.asker
        if attempt.slot:
            attempt.slot = False
            self.places.give()
        if asker is not None:
            asker.attempt = None
            asker.waits_for = None
            asker.answer_fails(502, "no web server could be reached")
        self.freed()
