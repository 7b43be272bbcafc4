"""What a worker has to ask the store with: its links, its leases, and what becomes of both when it is lost.

Nothing here is on the way of a request. A worker without a store has none of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ratelimitd.errors import StoreFault
from ratelimitd.fleet.leases import Leases
from ratelimitd.fleet.links import Links
from ratelimitd.fleet.names import key_prefix
from ratelimitd.limits.shared import Shared
from ratelimitd.proxy import measures, orders
from ratelimitd.segment import layout
from ratelimitd.segment.memory import boottime_us
from ratelimitd.segment.store import StoreMode, StoreWords

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from ratelimitd.config.model import StoreOptions
    from ratelimitd.limits.table import Table
    from ratelimitd.segment.memory import Segment

_DIAL_S: Final = 1.0


class Asking:
    """Of one worker, whose counters are on `page`; `report` tells the supervisor."""

    def __init__(
        self,
        segment: Segment,
        page: int,
        table: Table,
        loop: asyncio.AbstractEventLoop,
        options: StoreOptions,
        report: Callable[[orders.Message], None],
    ) -> None:
        self._segment = segment
        self._loop = loop
        self._prefix = options.prefix
        self._report = report
        self._words = StoreWords(segment.memory)
        self._wanted: orders.Store | None = None
        self.shared: Final = Shared(segment.memory, layout.HEADER_STORE_STATE, segment.wall_offset_us)
        self.leases: Final = Leases(
            *(table, self.shared, loop, self._key_prefix, self._give_up, segment.page(page).slots),
            *(measures.store_slots(segment.registry), options.deadline_ms * 1000),
        )
        self._links = Links(loop, self.leases.answered, self.leases.lost)
        self.leases.use(self._links)

    def take(self, order: orders.Store) -> None:
        """The store was reached: connect to it too."""
        self._loop.create_task(self._connect(order))

    async def begin(self, order: orders.Store) -> None:
        """Connect before the first request is read: one that comes while the store is there, and this worker
        not linked to it, is let in by the node's share, beside what the fleet grants."""
        if self._words.read().mode is not StoreMode.AWAY:
            await self._connect(order)

    async def _connect(self, order: orders.Store) -> None:
        self._wanted = order
        try:
            await self._links.take(order.topology, order.credentials, _DIAL_S)
        except StoreFault as fault:
            self._report(orders.StoreLost(str(fault)))
            return
        if self._wanted is order:
            self.shared.linked = self._links.ready

    def _give_up(self, why: str) -> None:
        """The breaker opens, for all workers."""
        self.shared.linked = self._links.ready
        self._words.open_breaker(boottime_us())
        self._report(orders.StoreLost(why))

    def _key_prefix(self, limit_id: int) -> bytes:
        for (limit, window_us), number in self._segment.registry.limits().items():
            if number == limit_id:
                return key_prefix(self._prefix, limit, window_us)
        raise KeyError(limit_id)
