"""The return of the store without a burst: what was admitted without it is told to it, and who was there
comes back; until then its grant and this node's share must agree.

Whoever waits only for the push knows what this node owes, not what the others do: so as many nodes as there
were must have told theirs too, for 10 s at most.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from ratelimitd.control.tasks import cancelled
from ratelimitd.errors import StoreFault
from ratelimitd.segment.memory import boottime_us
from ratelimitd.segment.store import StoreMode

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from ratelimitd.control.store_report import Exceptions
    from ratelimitd.control.store_session import Session
    from ratelimitd.fleet.signs import Fleet
    from ratelimitd.segment.store import StoreWords

logger = logging.getLogger(__name__)

MOST_US = 10_000_000


class Return:
    """`push` tells the store what this node owes (all that still counts, or only what it was not told),
    `done` is called when it has, `failed` when it could not."""

    def __init__(
        self,
        words: StoreWords,
        push: Callable[[Session, bool], Coroutine[object, object, None]],
        done: Callable[[], None],
        failed: Callable[[str], None],
        exceptions: Exceptions,
    ) -> None:
        self._words = words
        self._push = push
        self._done = done
        self._failed = failed
        self._exceptions = exceptions
        self._pushing: asyncio.Task[None] | None = None
        self._wanted = 1
        self._everything = False
        self._is_over = True
        self._began_us = 0
        self._held_since_us = 0
        self.back_from_us = 0  # the store's clock when this node came back

    @property
    def is_under_way(self) -> bool:
        return self._words.read().mode is StoreMode.BOTH

    def held_ms(self, now_us: int) -> int:
        """For how long this node has had the store, and nothing that it owes; 0: it has not."""
        return max(1, (now_us - self._held_since_us) // 1000) if self._held_since_us else 0

    def start(self) -> None:
        """The store is there from the beginning: nothing is owed."""
        self._held_since_us = boottime_us()

    def begin(self, session: Session, fleet: Fleet, wanted: int, *, everything: bool) -> None:
        """It is back, or it has lost what it held; `wanted` nodes were there."""
        self._stop()
        self._wanted = max(wanted, self._wanted)  # the last return may not be over
        # What was on its way then, by the push or by a worker, may not have arrived and is not marked now.
        self._everything = everything or not self._is_over
        self._is_over = False
        self._began_us, self.back_from_us = boottime_us(), fleet.time_us
        self._words.close_breaker(StoreMode.BOTH)
        self._pushing = asyncio.ensure_future(self._tell(session))

    def lost(self) -> None:
        """The store is away again."""
        self._held_since_us = 0
        self._stop()

    def take(self, fleet: Fleet) -> None:
        """Share again, once nothing is owed and the others are back."""
        if not self._held_since_us or not self.is_under_way:
            return
        missing = self._wanted - fleet.back
        if missing > 0 and boottime_us() - self._began_us < MOST_US:
            return
        self._words.close_breaker(StoreMode.SHARED)
        self._wanted = 1
        self._is_over = True
        if missing > 0:
            logger.warning("%d of the nodes that were there did not come back to the store", missing)
            if self._everything:
                self._exceptions.count(
                    "node_died", "a node died, and with it the knowledge of what it had admitted lately"
                )

    async def close(self) -> None:
        if self._pushing is not None:
            await cancelled((self._pushing,))

    def _stop(self) -> None:
        self._held_since_us = 0
        if self._pushing is not None:
            self._pushing.cancel()

    async def _tell(self, session: Session) -> None:
        try:
            await self._push(session, self._everything)
        except StoreFault as fault:
            self._failed(str(fault))
            return
        self._held_since_us = boottime_us()
        self._done()
