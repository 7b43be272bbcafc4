"""A configuration made into what the data plane runs on: limits, routes, upstreams, replies.

All look-ups of names happen here, once per configuration. What it returns is put in force by one assignment
(`Live.swap`).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ratelimitd.http.forwarding import Forwarding
from ratelimitd.http.replies import Replies
from ratelimitd.http.target import Matcher
from ratelimitd.limits.decision import Limiter
from ratelimitd.limits.policy import compile_limits, is_empty
from ratelimitd.overload.priorities import PRIORITIES
from ratelimitd.proxy import measures
from ratelimitd.proxy.access_log import AccessLog
from ratelimitd.proxy.dial import Dialer
from ratelimitd.proxy.identity import Identify
from ratelimitd.proxy.live import Policy, Route
from ratelimitd.proxy.server import Server
from ratelimitd.proxy.upstream import Upstream

if TYPE_CHECKING:
    import asyncio

    from ratelimitd.config import model
    from ratelimitd.limits.inflight import InFlight
    from ratelimitd.limits.table import Table
    from ratelimitd.proxy.deadlines import Wheel
    from ratelimitd.segment.memory import Segment


class Compiler:
    """Compiles for one worker: its page of counters, its ring of log lines, its wheel, its loop."""

    def __init__(
        self,
        segment: Segment,
        table: Table,
        inflight: InFlight,
        page: int,
        wheel: Wheel,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._segment = segment
        self._table = table
        self._inflight = inflight
        self._slots = segment.page(page).slots
        self._ring = segment.ring(page)
        self._wheel = wheel
        self._loop = loop

    def compile(self, config: model.Config, generation: int) -> Policy:
        registry = self._segment.registry
        limits = compile_limits(
            config,
            registry.limit_id,
            lambda limit, decision: measures.decision_slot(registry, limit, decision),
        )
        limiter = Limiter(limits, self._table, self._inflight, self._slots, self._segment.secret, generation)
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
            )
            for route in config.routes
        ]
        if not routes:
            routes = [Route(None, upstreams[config.upstreams[0].name], PRIORITIES.index("normal"))]
        return tuple(routes)

    def _upstream(self, config: model.Config, upstream: model.Upstream) -> Upstream:
        registry = self._segment.registry
        servers = []
        for server in upstream.servers:
            slots = measures.server_slots(registry, upstream.name, server.url)
            servers.append(Server(server, self._slots, slots.first_code, slots.in_flight))
        return Upstream(
            upstream,
            servers,
            self._wheel,
            self._loop,
            Dialer(self._loop, config.timeouts.connect_ms),
            config.headers.host == "upstream",
            measures.duration_slot(registry, upstream.name),
        )
