# Types of the compiled module, checked against it by mypy.stubtest.

from collections.abc import Sequence
from mmap import mmap
from typing import Self, final

from ratelimitd.limits.table_values import (
    Counters,
    Decision,
    Granted,
    Owed,
    Peeked,
    Request,
    StoreView,
    TableBusy,
    TableShape,
    shape,
)

__all__ = [
    "Counters",
    "Decision",
    "Granted",
    "Owed",
    "Peeked",
    "Request",
    "StoreView",
    "Table",
    "TableBusy",
    "TableShape",
    "shape",
    "siphash24",
]

def siphash24(data: bytes, secret: bytes) -> int: ...

@final
class Table:
    def __new__(
        cls, memory: mmap, offset: int, stripes: int, buckets_per_stripe: int, header_offset: int = 0
    ) -> Self: ...
    @property
    def buckets(self) -> int: ...
    def initialise(self) -> None: ...
    def decide(self, requests: Sequence[Request], now_us: int) -> Decision: ...
    def decide_again(self, requests: Sequence[Request], now_us: int, ahead_us: int) -> Decision: ...
    def decide_shared(
        self, requests: Sequence[Request], now_us: int, store: StoreView, granted: Sequence[Granted] = ()
    ) -> Decision: ...
    def prepare(self, key: int, slot_us: int, now_us: int, store: StoreView, lost: bool = False) -> Owed: ...
    def put_lease(
        self,
        request: Request,
        now_us: int,
        epoch: int,
        incarnation: int,
        units: int,
        slot: int,
        end_us: int,
        denied_us: int,
    ) -> tuple[int, int]: ...
    def unpushed(
        self, start_bucket: int, n_buckets: int, now_us: int, epoch: int, everything: bool = False
    ) -> list[tuple[int, int]]: ...
    def peek(self, key: int, slot_us: int, now_us: int) -> Peeked | None: ...
    def reset(self, key: int, now_us: int) -> bool: ...
    def ban(self, key: int, limit_id: int, until_us: int, now_us: int) -> None: ...
    def unban(self, key: int, now_us: int) -> bool: ...
    def count(self, start_bucket: int, n_buckets: int, now_us: int) -> dict[int, int]: ...
    def counters(self) -> Counters: ...
    def verify(self) -> list[str]: ...
