from typing import final

from ratelimitd.limits.inflight import InFlight
from ratelimitd.proxy.deadlines import Timed, Wheel

@final
class Admission:
    def __init__(self, inflight: InFlight, total_key: int, wheel: Wheel, most_descriptors: int) -> None: ...
    @property
    def connections(self) -> set[Timed]: ...
    @property
    def most_descriptors(self) -> int: ...
