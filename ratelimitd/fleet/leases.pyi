# Types of the compiled module, checked against it by mypy.stubtest.

import asyncio
from collections.abc import Callable
from typing import Protocol

from ratelimitd.fleet.wire import Asked, Wire
from ratelimitd.limits.shared import Shared
from ratelimitd.limits.table import Table

class _Links(Protocol):
    @property
    def only(self) -> Wire | None: ...
    def call(self, key: bytes, command: bytes, token: object) -> None: ...
    def flush(self) -> None: ...

class _Measures(Protocol):
    @property
    def first_result(self) -> int: ...
    @property
    def duration(self) -> int: ...
    @property
    def duration_bounds_us(self) -> tuple[int, ...]: ...

class Waiter:
    @property
    def is_late(self) -> bool: ...

class Call(Asked): ...

class Leases:
    def __init__(
        self,
        table: Table,
        shared: Shared,
        loop: asyncio.AbstractEventLoop,
        key_prefix: Callable[[int], bytes],
        store_lost: Callable[[str], None],
        slots: memoryview,
        measures: _Measures,
        deadline_us: int,
    ) -> None: ...
    @property
    def shared(self) -> Shared: ...
    @property
    def deadline_us(self) -> int: ...
    def use(self, links: _Links) -> None: ...
    def answered(self, call: Call, answer: object) -> None: ...
    def lost(self, why: object) -> None: ...
