"""Who passes at a shed level: the level is a share of all requests, cut from the lowest class up.

Whole classes go, and in the class where the cut falls a request passes by chance. How much each class is of
the whole is told by what arrived of it lately. A class that nobody has asked for goes with those below the
cut when the cut lies above it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

PRIORITIES: Final = ("critical", "high", "normal", "sheddable")

ALL: Final = (1.0, 1.0, 1.0, 1.0)


def passing(level: float, arrivals: Sequence[int]) -> tuple[float, float, float, float]:
    """The share of each class that passes, in the order of PRIORITIES; `arrivals` counts each class."""
    to_cut = level * sum(arrivals)
    shares = list(ALL)
    if to_cut <= 0:
        return ALL
    for position in reversed(range(len(PRIORITIES))):
        arrived = arrivals[position]
        cut = min(float(arrived), to_cut)
        to_cut -= cut
        shares[position] = 1.0 - cut / arrived if arrived else 0.0
        if to_cut <= 0:
            break
    critical, high, normal, sheddable = shares
    return critical, high, normal, sheddable
