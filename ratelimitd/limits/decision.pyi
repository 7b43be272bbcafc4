from typing import final

from ratelimitd.limits.charges import Charges
from ratelimitd.limits.inflight import InFlight
from ratelimitd.limits.policy import LimitRules
from ratelimitd.limits.shared import Shared
from ratelimitd.limits.table import Table

def take_bans() -> list[tuple[int, int, int]]: ...

@final
class Limiter(Charges):
    def __init__(
        self,
        limits: tuple[LimitRules, ...],
        table: Table,
        inflight: InFlight,
        slots: memoryview,
        secret: bytes,
        generation: int,
        shared: Shared | None = None,
    ) -> None: ...
    @property
    def shared(self) -> Shared | None: ...
