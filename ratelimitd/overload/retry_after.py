"""How long the clients that were shed are told to stay away: so spread that their return fits what is free.

A shed request is told 1 + a random number of seconds up to `spread_s`. What was shed in the last 10 s comes
back within that span, so it must be as long as the spare capacity needs to serve it.
"""

from __future__ import annotations

import math
from typing import Final

LOOK_BACK_S: Final = 10
# 1 + spread: nobody is sent away for longer than half a minute.
MOST_SPREAD_S: Final = 29
# In the midst of a surge nothing is spare. What returns then meets the same law again; this share of the
# capacity, which the law itself leaves free, keeps the spread finite.
_LEAST_SPARE: Final = 0.1


def spare_per_s(admitted_per_s: float, offered_per_s: float, busy: float) -> float:
    """Requests per second that could be served beyond those that are offered now.

    Capacity is what is admitted, scaled to a worker that is wholly busy; below a tenth of that too little
    is known to scale it further."""
    capacity = admitted_per_s / min(1.0, max(busy, 0.1))
    return max(capacity - offered_per_s, _LEAST_SPARE * capacity)


def spread_s(shed_lately: int, spare: float) -> int:
    """The largest number of seconds to add at random; `shed_lately` counts the last LOOK_BACK_S seconds."""
    if shed_lately <= 0:
        return 0
    if spare <= shed_lately / MOST_SPREAD_S:
        return MOST_SPREAD_S
    return min(MOST_SPREAD_S, math.ceil(shed_lately / spare))
