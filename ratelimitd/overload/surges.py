"""Levels into what an operator reads: one start and one end for each surge.

The level swings about its balance and may touch 0 in the midst of a surge. A surge has ended when the level
was 0 for 5 s.
"""

from __future__ import annotations

import dataclasses
from typing import Final

HOLD_US: Final = 5_000_000


@dataclasses.dataclass(frozen=True)
class Surge:
    """One that goes on."""

    since_us: int
    above_us: int  # when the level was last above 0
    peak: float


@dataclasses.dataclass(frozen=True)
class Started:
    level: float


@dataclasses.dataclass(frozen=True)
class Ended:
    """`lasted_us` is from the first to the last level above 0."""

    lasted_us: int
    peak: float


def follow(surge: Surge | None, level: float, now_us: int) -> tuple[Surge | None, Started | Ended | None]:
    """The surge after this level, and what there is to say."""
    if level > 0:
        if surge is None:
            return Surge(now_us, now_us, level), Started(level)
        return Surge(surge.since_us, now_us, max(surge.peak, level)), None
    if surge is not None and now_us - surge.above_us >= HOLD_US:
        return None, Ended(surge.above_us - surge.since_us, surge.peak)
    return surge, None
