# cython: boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Which web server is asked: by weight and load, in turn, or always the same one for a client.

Servers that health checks call down, that were ejected for failing in a row, or that have no room are passed
over; backups are asked only while no other server is up. How a server does is shared by all workers
(`segment/server_state.h`), how much it has to do is what this worker sent it. One server is never ejected, and
choosing it is one comparison.
"""

from libc.math cimport log
from libc.stdint cimport int64_t, uint64_t

from ratelimitd.proxy.clock cimport boottime_us
from ratelimitd.proxy.deadlines cimport Timed, Wheel
from ratelimitd.proxy.places cimport Places

from ratelimitd.limits.table import siphash24

cdef extern from "ratelimitd/segment/server_state.h" nogil:
    const uint64_t SERVER_WANTED_US
    uint64_t server_word(const uint64_t* word)
    void server_store(uint64_t* word, uint64_t value)
    int server_may_try(ServerState* state, uint64_t now_us)
    int server_succeeded(ServerState* state, uint64_t now_us)
    int server_failed(ServerState* state, uint64_t now_us, uint64_t most)
    void server_eject(ServerState* state, uint64_t now_us, uint64_t for_us)

cdef enum:
    WHOLE = 1000  # the share of weight 1; a server that is new begins with a tenth of its own

# Everybody hashes alike, workers, machines and the next start: a client's server is nobody's secret.
cdef bytes PUBLIC = bytes(16)
cdef dict METHODS = {"least_requests": LEAST_REQUESTS, "round_robin": ROUND_ROBIN, "client": CLIENT}


def host_of(address) -> bytes:
    """The Host value by which a server is asked when the client's is not preserved."""
    if address.unix_path:
        return b"localhost"
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{host}:{address.port}".encode("ascii")


def hash_client(bytes key):
    """What `choose` takes for a client."""
    return siphash24(key, PUBLIC)


cdef class Kept(Timed):
    pass


cdef class Server:
    """One web server, as this worker sees it. `state` is its record in the segment, `places` bounds the
    connections to it."""

    def __init__(
        self, address, uint64_t[::1] state, int64_t[::1] slots, int first_code_slot, int in_flight_slot, Places places
    ):
        self.url = address.url
        self.address = address
        self.weight = address.weight
        self.connections = set()
        self.places = places
        self.state = <ServerState*>&state[0]
        self.back_us = self.state.back_us
        self.slots = &slots[0]
        self.first_code_slot = first_code_slot
        self.in_flight_slot = in_flight_slot
        self.host_line = b"Host: %b\r\n" % host_of(address)
        self.seed = hash_client(address.url.encode())

    cdef void took(self, int change) noexcept:
        self.in_flight += change
        self.slots[self.in_flight_slot] += change

    cdef void keep(self, Kept connection):
        """Lays a connection on the stack of those that are idle."""
        connection.idle = True
        connection._older = self.newest
        if self.newest is not None:
            self.newest._newer = connection
        self.newest = connection
        self.idle_count += 1

    cdef Kept pop(self):
        """The connection that was used last, of those that are idle. There is one."""
        cdef Kept connection = self.newest
        self.newest = connection._older
        if self.newest is not None:
            self.newest._newer = None
            connection._older = None
        connection.idle = False
        self.idle_count -= 1
        return connection

    cdef void drop(self, Kept connection):
        """Takes a connection from the stack, wherever it lies there."""
        if connection is self.newest:
            self.newest = connection._older
        else:
            connection._newer._older = connection._older
        if connection._older is not None:
            connection._older._newer = connection._newer
        connection._older = connection._newer = None
        connection.idle = False
        self.idle_count -= 1

    cdef bint is_wanted(self) noexcept:
        """Whether some worker has lately found no room for a connection here: idle ones had better end."""
        return boottime_us() - server_word(&self.state.wanted_us) < SERVER_WANTED_US


cdef class Balancer:
    """Chooses among `servers` by the settings of an upstream."""

    def __init__(self, config, list servers, Wheel wheel):
        self.servers = tuple(servers)
        self.wheel = wheel
        self.primaries = tuple([server for server in servers if not server.address.backup])
        self.backups = tuple([server for server in servers if server.address.backup])
        if len(servers) == 1:
            self.only = servers[0]
        self.method = METHODS[config.balance]
        self.slow_start_ticks = config.slow_start_ms // wheel.tick_ms
        self.eject_failures = config.eject_failures
        self.eject_for_us = config.eject_for_ms * 1000

    cdef Server choose(self, uint64_t client, set tried):
        """A server to ask, not one of `tried`; None when none is up, or, then `full` says so, none has room."""
        cdef Server server = self.only
        self.full = False
        if server is not None and tried is None and server.places is None:
            return None if server.state.down else server
        server = self._among(self.primaries, client, tried)
        if server is None and not self.full:
            server = self._among(self.backups, client, tried)
        return server

    cdef Server _among(self, tuple servers, uint64_t client, set tried):
        cdef Server server, least = None
        for server in servers:
            server.eligible = False
            if server.state.down or (tried is not None and server in tried):
                continue
            if server.state.ejected_until_us and self.only is None:
                if server_may_try(server.state, boottime_us()):
                    return server
                continue
            if not self._is_eligible(server):
                continue
            server.eligible = True
            server.share = self._share_now(server)
            if least is None or server.in_flight * least.share < least.in_flight * server.share:
                least = server
        if least is None or self.only is not None:
            return least
        if self.method == CLIENT:
            return self._of_client(servers, client)
        return self._next_in_turn(servers, least if self.method == LEAST_REQUESTS else None)

    cdef bint _is_eligible(self, Server server) noexcept:
        """Whether there is room; if not, that is told to all workers."""
        if server.places is None or server.idle_count or not server.places.full():
            return True
        server_store(&server.state.wanted_us, boottime_us())
        self.full = True
        return False

    cdef int64_t _share_now(self, Server server) noexcept:
        """Its weight; less for a while after it came back."""
        cdef uint64_t left
        if server.back_us != server.state.back_us:
            server.back_us = server.state.back_us
            left = (boottime_us() - server.back_us) // (1000 * self.wheel.tick_ms)
            server.warm_at = self.wheel.now + self.slow_start_ticks - min(left, self.slow_start_ticks)
        if self.wheel.now >= server.warm_at:
            return server.weight * WHOLE
        left = server.warm_at - self.wheel.now
        return server.weight * (WHOLE - <int64_t>(left * (WHOLE - WHOLE // 10) // self.slow_start_ticks))

    cdef Server _next_in_turn(self, tuple servers, Server least):
        """Smooth weighted round robin over those that are eligible, or that have as little to do as `least`:
        each gains its share, the one that has gained most is next and pays what all gained."""
        cdef Server server, following = None
        cdef int64_t gained = 0
        for server in servers:
            if not server.eligible:
                continue
            if least is not None and server.in_flight * least.share != least.in_flight * server.share:
                continue
            server.turn += server.share
            gained += server.share
            if following is None or server.turn > following.turn:
                following = server
        following.turn -= gained
        return following

    cdef Server _of_client(self, tuple servers, uint64_t client):
        """Rendezvous hashing: every server draws a number that depends on it and the client alone, scaled by
        its share, and the highest has the client. A server that goes takes nobody else's clients along."""
        cdef Server server, best = None
        cdef double drawn, highest = 0
        for server in servers:
            if server.eligible:
                drawn = -log(((mixed(client ^ server.seed) >> 11) + 0.5) / 9007199254740992.0) / server.share
                if best is None or drawn < highest:
                    best, highest = server, drawn
        return best

    cdef void answered(self, Server server) noexcept:
        """It is alive. Almost always nothing was held against it."""
        if server.state.failures or server.state.ejected_until_us:
            server_succeeded(server.state, boottime_us())

    cdef void failed(self, Server server) noexcept:
        """A server that fails often in a row is left alone for a while, but never the last one."""
        cdef uint64_t now_us = boottime_us()
        if not server_failed(server.state, now_us, self.eject_failures) or self._is_last(server):
            return
        server_eject(server.state, now_us, self.eject_for_us)
        if self._is_last(server):
            # Two workers have ejected two servers at once: each sees it only now.
            server_store(&server.state.ejected_until_us, 0)

    cdef bint _is_last(self, Server server) noexcept:
        """Whether no other one is up."""
        cdef Server other
        for other in self.servers:
            if other is not server and not other.state.down and not server_word(&other.state.ejected_until_us):
                return False
        return True

    # For callers in Python.

    def pick(self, uint64_t client=0):
        return self.choose(client, None)

    def begin(self, Server server):
        """One more request is with `server`."""
        server.took(1)

    def end(self, Server server, bint good=True):
        server.took(-1)
        if good:
            self.answered(server)
        else:
            self.failed(server)


cdef inline uint64_t mixed(uint64_t word) noexcept:
    """The finalizer of splitmix64: every bit of the result depends on every bit of the word."""
    word = (word ^ (word >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    word = (word ^ (word >> 27)) * <uint64_t>0x94D049BB133111EB
    return word ^ (word >> 31)
