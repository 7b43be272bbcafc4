from typing import Any

from ratelimitd.config.model import Config
from ratelimitd.fleet.leases import Leases
from ratelimitd.http.forwarding import Forwarding
from ratelimitd.http.matching import Matcher
from ratelimitd.http.replies import Replies
from ratelimitd.limits.decision import Limiter
from ratelimitd.limits.refusals import Refusals
from ratelimitd.overload.gate import Gate
from ratelimitd.proxy.access_log import AccessLog
from ratelimitd.proxy.admission import Admission
from ratelimitd.proxy.deadlines import Wheel
from ratelimitd.proxy.identity import Identify
from ratelimitd.proxy.measures import Measures
from ratelimitd.proxy.preamble import Preamble
from ratelimitd.proxy.turns import Turns
from ratelimitd.proxy.upstream import Upstream

class Route:
    def __init__(
        self, matcher: Matcher | None, upstream: Upstream, priority: int, streaming: bool
    ) -> None: ...
    @property
    def matcher(self) -> Matcher | None: ...
    @property
    def upstream(self) -> Upstream: ...
    @property
    def priority(self) -> int: ...
    @property
    def streaming(self) -> bool: ...

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
        preambles: dict[str, Preamble],
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
    @property
    def preambles(self) -> dict[str, Preamble]: ...

class Live:
    def __init__(
        self,
        wheel: Wheel,
        admission: Admission,
        slots: memoryview,
        measures: Measures,
        gate: Gate,
        turns: Turns,
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
    leases: Leases | None
    def swap(self, policy: Policy) -> None: ...
    def tick(self, date_line: bytes) -> None: ...
    def drain(self) -> None: ...

class Listener:
    def __init__(
        self,
        live: Live,
        bind: str,
        outcome_slot: int,
        active_slot: int,
        idle_slot: int,
        tunnel_slot: int,
        failure_slot: int,
    ) -> None: ...
    @property
    def live(self) -> Live: ...
    @property
    def bind(self) -> str: ...
