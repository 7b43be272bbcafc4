"""How much is asked for, lately: what arrived of each priority, and what was shed.

Read from the counter pages a few times a second. A page that comes or goes takes nothing away: only growth
counts, and a page that has a new owner begins at 0.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from typing import TYPE_CHECKING, Final

from ratelimitd.overload.priorities import PRIORITIES
from ratelimitd.overload.retry_after import LOOK_BACK_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ratelimitd.segment.pages import Page
    from ratelimitd.segment.registry import Registry

_ARRIVALS_US: Final = 1_000_000
_SHED_US: Final = LOOK_BACK_S * 1_000_000
_CLASSES: Final = len(PRIORITIES)


@dataclasses.dataclass(frozen=True)
class _Look:
    at_us: int
    span_us: int  # since the look before
    arrivals: tuple[int, ...]
    shed: int


class Demand:
    """`look` at the pages of the workers regularly; the rest is about the looks of late, but for
    `shed_total`, which is about all."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._last: dict[int, tuple[int, ...]] = {}
        self._last_us = 0
        self._looks: deque[_Look] = deque()
        self.shed_total = 0

    def look(self, workers: Sequence[Page], all_pages: Sequence[Page], now_us: int) -> None:
        """`all_pages` are those of the workers, the base page and our own."""
        counts = {page.owner: tuple(page.arrivals) for page in workers}
        arrived = [
            sum(counts[owner][i] - self._last.get(owner, (0,) * _CLASSES)[i] for owner in counts)
            for i in range(_CLASSES)
        ]
        shed = self._shed(all_pages)
        if self._last_us:
            look = _Look(now_us, now_us - self._last_us, tuple(arrived), shed - self.shed_total)
            self._looks.append(look)
        self._last, self.shed_total, self._last_us = counts, shed, now_us
        while self._looks and self._looks[0].at_us <= now_us - _SHED_US:
            self._looks.popleft()

    def arrivals(self) -> tuple[int, ...]:
        """Of each priority, in the last second."""
        recent = self._recent()
        return tuple(sum(look.arrivals[i] for look in recent) for i in range(_CLASSES))

    def per_s(self) -> tuple[float, float]:
        """Requests per second that arrived, and that were not shed, in the last second."""
        recent = self._recent()
        span_s = sum(look.span_us for look in recent) / 1e6
        if not span_s:
            return 0.0, 0.0
        arrived = sum(sum(look.arrivals) for look in recent)
        return arrived / span_s, max(0, arrived - sum(look.shed for look in recent)) / span_s

    def shed_lately(self) -> int:
        """In the span that Retry-After looks back over."""
        return sum(look.shed for look in self._looks)

    def _recent(self) -> list[_Look]:
        return [look for look in self._looks if look.at_us > self._last_us - _ARRIVALS_US]

    def _shed(self, pages: Sequence[Page]) -> int:
        slots = [
            entry.slot
            for entry in self._registry.all_series()
            if entry.metric == "ratelimitd_requests_total" and entry.labels[1] == "shed"
        ]
        return sum(page.slots[slot] for page in pages for slot in slots)
