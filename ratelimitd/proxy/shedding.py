"""The worker's side of shedding: takes the supervisor's order to the gate, at each tick, and says how late
the loop is and how much waits in it.

An order that is void, because the supervisor is gone or stands still, opens the gate.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ratelimitd.overload.gate import Gate
    from ratelimitd.segment.shedding import ShedWords

# As many ticks as the supervisor's samples span: a page fault makes one of them late, a full worker most.
_TICKS: Final = 5


class Follower:
    """Keeps `gate` at what `words` say."""

    def __init__(self, words: ShedWords, gate: Gate) -> None:
        self._words = words
        self._gate = gate

    def tick(self, now_us: int) -> None:
        order = self._words.read()
        if order.is_void(now_us):
            self._gate.open()
        else:
            self._gate.set(order.passing, order.spread_s)


class Median:
    """The median of the last few that were noted."""

    def __init__(self) -> None:
        self._last: deque[int] = deque([0] * _TICKS, maxlen=_TICKS)
        self.value = 0

    def note(self, value: int) -> None:
        self._last.append(value)
        self.value = sorted(self._last)[_TICKS // 2]
