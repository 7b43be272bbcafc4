"""A configuration made into what the data plane runs on: limits, routes, upstreams, replies.

All look-ups of names happen here, once per configuration. What it returns is put in force by one assignment
(`Live.swap`).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from ratelimitd.http.forwarding import Forwarding
from ratelimitd.http.matching import Matcher
from ratelimitd.http.replies import Replies
from ratelimitd.limits.decision import Limiter
from ratelimitd.limits.policy import compile_limits, is_empty
from ratelimitd.limits.table import siphash24
from ratelimitd.overload.priorities import PRIORITIES
from ratelimitd.proxy import measures
from ratelimitd.proxy.access_log import AccessLog
from ratelimitd.proxy.balancing import Balancer, Server
from ratelimitd.proxy.dial import Dialer
from ratelimitd.proxy.dispatch import Dispatcher
from ratelimitd.proxy.identity import Identify
from ratelimitd.proxy.live import Policy, Route
from ratelimitd.proxy.places import Places
from ratelimitd.proxy.preamble import compile_preambles

if TYPE_CHECKING:
    import asyncio

    from ratelimitd.config import model
    from ratelimitd.limits.inflight import InFlight
    from ratelimitd.limits.shared import Shared
    from ratelimitd.limits.table import Table
    from ratelimitd.proxy.deadlines import Wheel
    from ratelimitd.proxy.names import Names
    from ratelimitd.proxy.unreached import Unreached
    from ratelimitd.segment.memory import Segment


# No limit has the id 0, so no key of a limit is a key of these.
_REQUESTS: Final = b"\0\0u"
_CONNECTIONS: Final = b"\0\0s"


class Compiler:
    """Compiles for one worker: its page of counters, its ring of log lines, its wheel, its loop, its notes of
    servers that could not be reached, of where those are that have names, and of how the store does."""

    def __init__(
        self,
        segment: Segment,
        table: Table,
        inflight: InFlight,
        page: int,
        wheel: Wheel,
        loop: asyncio.AbstractEventLoop,
        unreached: Unreached,
        names: Names,
        shared: Shared | None = None,
    ) -> None:
        self._segment = segment
        self._table = table
        self._inflight = inflight
        self._slots = segment.page(page).slots
        self._ring = segment.ring(page)
        self._wheel = wheel
        self._loop = loop
        self._unreached = unreached
        self._names = names
        self._shared = shared

    def compile(self, config: model.Config, generation: int) -> Policy:
        registry = self._segment.registry
        limits = compile_limits(
            config,
            registry.limit_id,
            lambda limit, decision: measures.decision_slot(registry, limit, decision),
            lambda limit: measures.fallback_slot(registry, limit),
        )
        limiter = Limiter(
            *(limits, self._table, self._inflight, self._slots, self._segment.limit_secret, generation),
            self._shared,
        )
        key_names = tuple(
            name.lower().encode("latin-1")
            for limit in limits
            for kind, name in limit.parts
            if kind == "header"
        )
        return Policy(
            config,
            limiter,
            self._routes(config),
            Forwarding(config.headers, config.clients.header, key_names, os.urandom(16)),
            Replies(config.replies),
            Identify(config.clients, self._segment.secret),
            self._access_log(config.log),
            compile_preambles(config.listen),
        )

    def _access_log(self, log: model.Log) -> AccessLog | None:
        if log.access == "none":
            return None
        seed = int.from_bytes(os.urandom(8), "little")
        return AccessLog(self._ring, log, self._segment.wall_offset_us, seed)

    def _routes(self, config: model.Config) -> tuple[Route, ...]:
        upstreams = {upstream.name: self._upstream(config, upstream) for upstream in config.upstreams}
        routes = [
            Route(
                None if is_empty(route.match) else Matcher(route.match, for_limit=False),
                upstreams[route.upstream],
                PRIORITIES.index(route.priority),
                route.streaming,
            )
            for route in config.routes
        ]
        if not routes:
            routes = [Route(None, upstreams[config.upstreams[0].name], PRIORITIES.index("normal"), False)]
        return tuple(routes)

    def _upstream(self, config: model.Config, upstream: model.Upstream) -> Dispatcher:
        servers = [self._server(upstream, server) for server in upstream.servers]
        return Dispatcher(
            upstream,
            Balancer(upstream, servers, self._wheel),
            self._places(upstream.concurrency, _REQUESTS, upstream.name),
            self._wheel,
            self._loop,
            Dialer(self._loop, config.timeouts.connect_ms, upstream, self._unreached, self._names),
            config.headers.host == "upstream",
            measures.duration_slot(self._segment.registry, upstream.name),
        )

    def _server(self, upstream: model.Upstream, server: model.Server) -> Server:
        slots = measures.server_slots(self._segment.registry, upstream.name, server.url)
        return Server(
            server,
            self._segment.server(slots.in_flight).words,
            self._slots,
            slots.first_code,
            slots.in_flight,
            self._places(server.max_connections, _CONNECTIONS, f"{upstream.name}\0{server.url}"),
        )

    def _places(self, most: int, kind: bytes, name: str) -> Places | None:
        """Those under a name are the same for all workers, and through any reload."""
        if most <= 0:
            return None
        return Places(self._inflight, siphash24(kind + name.encode(), self._segment.secret), most)
