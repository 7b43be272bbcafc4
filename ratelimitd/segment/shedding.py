"""The words by which the supervisor tells all workers what to shed.

One process writes them, four times a second; every worker reads them at its own tick. Each word is whole
whenever it is read; that a reader may see some of one order and some of the next does no harm. An order that
was not renewed for 2 s is void: a supervisor that stands still must not shed.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

from ratelimitd.segment import layout

if TYPE_CHECKING:
    import mmap

MILLION: Final = 1_000_000
# A tick and its lag short of the 2 s within which shedding has to end.
VOID_AFTER_US: Final = 1_800_000

_FIRST: Final = layout.HEADER_SHED_PASS
_LEVEL: Final = (layout.HEADER_SHED_LEVEL - _FIRST) // 8
_SPREAD: Final = (layout.HEADER_SHED_SPREAD_S - _FIRST) // 8
_SAMPLED: Final = (layout.HEADER_SHED_SAMPLED_US - _FIRST) // 8


@dataclasses.dataclass(frozen=True)
class ShedOrder:
    """`passing` is in millionths, from critical to sheddable; so is `level`, for display."""

    passing: tuple[int, int, int, int]
    level: int
    spread_s: int
    sampled_us: int

    def is_void(self, now_us: int) -> bool:
        return now_us - self.sampled_us > VOID_AFTER_US


class ShedWords:
    """The words in the segment's header. In a new segment they are an order that is void."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._words: Final = memoryview(memory)[_FIRST : layout.HEADER_SHED_END].cast("Q")

    def write(self, order: ShedOrder) -> None:
        for position, share in enumerate(order.passing):
            self._words[position] = share
        self._words[_LEVEL] = order.level
        self._words[_SPREAD] = order.spread_s
        self._words[_SAMPLED] = order.sampled_us

    def read(self) -> ShedOrder:
        words = self._words
        return ShedOrder(
            (words[0], words[1], words[2], words[3]), words[_LEVEL], words[_SPREAD], words[_SAMPLED]
        )
