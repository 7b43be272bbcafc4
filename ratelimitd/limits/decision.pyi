from typing import final

from ratelimitd.limits.inflight import InFlight
from ratelimitd.limits.policy import LimitRules
from ratelimitd.limits.table import Table

@final
class Client:
    def __init__(
        self, address: str, key_bytes: bytes, allowed: bool = False, denied: bool = False
    ) -> None: ...
    @property
    def address(self) -> str: ...
    @property
    def key_bytes(self) -> bytes: ...
    @property
    def allowed(self) -> bool: ...
    @property
    def denied(self) -> bool: ...

@final
class Limiter:
    def __init__(
        self,
        limits: tuple[LimitRules, ...],
        table: Table,
        inflight: InFlight,
        slots: memoryview,
        secret: bytes,
        generation: int,
    ) -> None: ...
    @property
    def needs_text(self) -> bool: ...
    @property
    def names(self) -> tuple[str, ...]: ...
