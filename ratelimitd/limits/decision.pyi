from typing import final

from ratelimitd.limits.charges import Charges
from ratelimitd.limits.inflight import InFlight
from ratelimitd.limits.policy import LimitRules
from ratelimitd.limits.table import Table

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
    ) -> None: ...
