"""Pages of counters: one process writes each, the supervisor reads them all.

A page has a small header (owner, heartbeat, lag, arrivals) and slots whose numbers the registry gives out.
When a process has been reaped, `fold` moves its counters into the base page and clears its gauges: a total
over all pages never goes back, and what ended with the process no longer counts as there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ratelimitd.segment import layout
from ratelimitd.segment.series import METRICS, Kind

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterable

    from ratelimitd.segment.registry import Series


class Page:
    """One page of the segment. `slots` are signed 64-bit words."""

    def __init__(self, memory: mmap.mmap, offset: int) -> None:
        page = memoryview(memory)[offset : offset + layout.PAGE_SIZE]
        self._header: Final = page[: layout.PAGE_SLOTS].cast("q")
        # Requests of each priority, from critical to sheddable.
        self.arrivals: Final = self._header[layout.PAGE_ARRIVALS // 8 :]
        self.slots: Final = page[layout.PAGE_SLOTS :].cast("q")

    @property
    def owner(self) -> int:
        """The process that writes here; 0: nobody."""
        return self._header[layout.PAGE_OWNER // 8]

    @property
    def heartbeat_us(self) -> int:
        """When the owner last said that it lives (CLOCK_BOOTTIME); 0: not yet."""
        return self._header[layout.PAGE_HEARTBEAT_US // 8]

    @property
    def lag_us(self) -> int:
        """How late the owner's loop runs: the median of its last ticks."""
        return self._header[layout.PAGE_LAG_US // 8]

    @property
    def waiting_us(self) -> int:
        """The CPU time that it takes to serve what always waits in the owner's loop."""
        return self._header[layout.PAGE_WAITING_US // 8]

    def claim(self, pid: int) -> None:
        self._header[layout.PAGE_OWNER // 8] = pid

    def beat(self, now_us: int, lag_us: int = 0, waiting_us: int = 0) -> None:
        self._header[layout.PAGE_WAITING_US // 8] = waiting_us
        self._header[layout.PAGE_LAG_US // 8] = lag_us
        self._header[layout.PAGE_HEARTBEAT_US // 8] = now_us

    def clear(self) -> None:
        """Make the page free: no owner, all words 0."""
        for words in (self.slots, self._header):
            words.cast("B")[:] = bytes(words.nbytes)


def fold(page: Page, base: Page, series: Iterable[Series]) -> None:
    """Move the counters of a process that has ended into `base`, and free its page."""
    for entry in series:
        if METRICS[entry.metric].kind is Kind.GAUGE:
            continue
        for slot in range(entry.slot, entry.slot + entry.width):
            base.slots[slot] += page.slots[slot]
    page.clear()
