from typing import Any

from ratelimitd.config.model import Config
from ratelimitd.http.forwarding import Forwarding
from ratelimitd.http.replies import Replies
from ratelimitd.limits.decision import Limiter
from ratelimitd.limits.inflight import InFlight
from ratelimitd.limits.refusals import Refusals
from ratelimitd.overload.gate import Gate
from ratelimitd.proxy.access_log import AccessLog
from ratelimitd.proxy.deadlines import Wheel
from ratelimitd.proxy.identity import Identify
from ratelimitd.proxy.measures import Measures
from ratelimitd.proxy.upstream import Upstream

class Route:
    def __init__(self, matcher: Any, upstream: Upstream, priority: int) -> None: ...
    @property
    def matcher(self) -> Any: ...
    @property
    def upstream(self) -> Upstream: ...
    @property
    def priority(self) -> int: ...

class Policy:
    def __init__(
        self,
        config: Config,
        limiter: Limiter,
        routes: tuple[Route, ...],
        forwarding: Forwarding,
        replies: Replies,
        identify: Identify,
        log: AccessLog | None,
    ) -> None: ...
    @property
    def limiter(self) -> Limiter: ...
    @property
    def routes(self) -> tuple[Route, ...]: ...
    @property
    def replies(self) -> Replies: ...
    @property
    def identify(self) -> Identify: ...
    @property
    def log(self) -> AccessLog | None: ...

class Live:
    def __init__(
        self, wheel: Wheel, inflight: InFlight, slots: memoryview, measures: Measures, gate: Gate
    ) -> None: ...
    @property
    def policy(self) -> Policy: ...
    @property
    def wheel(self) -> Wheel: ...
    @property
    def connections(self) -> set[Any]: ...
    @property
    def draining(self) -> bool: ...
    @property
    def refusals(self) -> Refusals: ...
    def swap(self, policy: Policy) -> None: ...
    def tick(self, date_line: bytes) -> None: ...
    def drain(self) -> None: ...

class Listener:
    def __init__(
        self,
        live: Live,
        bind: str,
        scheme: bytes,
        outcome_slot: int,
        active_slot: int,
        idle_slot: int,
        tunnel_slot: int,
    ) -> None: ...
    @property
    def live(self) -> Live: ...
    @property
    def bind(self) -> str: ...
