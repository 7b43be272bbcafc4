"""The words by which all processes of a node know how its store does.

Any process may open the breaker; only the supervisor closes it, when the store has answered in time again.
Each opening begins a new epoch: a lease of an earlier one is worth nothing, and what a key was charged since
then may not be in the store. Each word is whole whenever it is read, and the state is one word.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import TYPE_CHECKING, Final

from ratelimitd.segment import layout

if TYPE_CHECKING:
    import mmap

_FIRST: Final = layout.HEADER_STORE_STATE
_AWAY_SINCE: Final = (layout.HEADER_STORE_AWAY_SINCE_US - _FIRST) // 8
_RECHARGE_SINCE: Final = (layout.HEADER_STORE_RECHARGE_SINCE_US - _FIRST) // 8
_ASSUMED: Final = (layout.HEADER_STORE_NODES_ASSUMED - _FIRST) // 8
_NOW: Final = (layout.HEADER_STORE_NODES_NOW - _FIRST) // 8
_EPOCHS: Final = 1 << 16


class StoreMode(enum.IntEnum):
    """How limits are kept just now."""

    SHARED = 0  # by what the store grants
    AWAY = 1  # by what each limit says of a store that is away
    BOTH = 2  # the store has come back: its grant and this node's share must agree


@dataclasses.dataclass(frozen=True)
class StoreState:
    """Instants are of CLOCK_BOOTTIME. `nodes_assumed` divides a limit into shares while the store is away,
    `nodes_now` counts the nodes that share it."""

    mode: StoreMode
    epoch: int
    away_since_us: int
    recharge_since_us: int
    nodes_assumed: int
    nodes_now: int


class StoreWords:
    """The words in the segment's header. In a new segment the store is there, and this node is alone."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._words: Final = memoryview(memory)[_FIRST : layout.HEADER_STORE_END].cast("Q")

    def read(self) -> StoreState:
        words = self._words
        return StoreState(
            StoreMode(words[0] & 0xFF),
            words[0] >> 8,
            words[_AWAY_SINCE],
            words[_RECHARGE_SINCE],
            max(1, words[_ASSUMED]),
            max(1, words[_NOW]),
        )

    def open_breaker(self, now_us: int) -> bool:
        """The store is away from `now_us` on. False: it was already."""
        mode, epoch = self._words[0] & 0xFF, self._words[0] >> 8
        if mode == StoreMode.AWAY:
            return False
        if mode == StoreMode.SHARED:  # BOTH: what was charged since the opening before is not all pushed
            self._words[_RECHARGE_SINCE] = now_us
        self._words[_AWAY_SINCE] = now_us
        self._put(StoreMode.AWAY, epoch + 1)
        return True

    def close_breaker(self, mode: StoreMode) -> None:
        """The store answers in time: SHARED, or BOTH until all nodes are back."""
        self._put(mode, self._words[0] >> 8)

    def restart_epoch(self, since_us: int) -> None:
        """The store may have forgotten what was charged since `since_us`: all keys are charged again."""
        self._words[_RECHARGE_SINCE] = min(since_us, self._words[_RECHARGE_SINCE] or since_us)
        self._put(StoreMode(self._words[0] & 0xFF), (self._words[0] >> 8) + 1)

    def set_recharge_since(self, since_us: int) -> None:
        self._words[_RECHARGE_SINCE] = since_us

    def set_nodes(self, assumed: int, now: int) -> None:
        self._words[_ASSUMED] = assumed
        self._words[_NOW] = now

    def _put(self, mode: StoreMode, epoch: int) -> None:
        self._words[0] = mode | (epoch % _EPOCHS) << 8
