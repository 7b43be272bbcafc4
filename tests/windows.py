"""What a log of instants says of a limit: its worst window, and how much of the limit was used.

Windows are (x, x + length]: two instants exactly one length apart are in no common window.
`exact_admissions` is the best that any limiter can do with the same arrivals: a log of every admission.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple


class Window(NamedTuple):
    """The fullest window of a log: how many instants, and the last of them."""

    size: int
    last_us: int


def worst_window(instants_us: Iterable[int], length_us: int) -> Window:
    """The window (x, x + length_us] that holds most instants, the earliest of those; (0, 0) for none."""
    inside: deque[int] = deque()
    worst = Window(0, 0)
    for instant in sorted(instants_us):
        inside.append(instant)
        while inside[0] <= instant - length_us:
            inside.popleft()
        if len(inside) > worst.size:
            worst = Window(len(inside), instant)
    return worst


def exact_admissions(arrivals_us: Iterable[int], limit: int, length_us: int) -> int:
    """How many of these arrivals a limiter with a whole log admits, each as soon as there is room."""
    inside: deque[int] = deque()
    admitted = 0
    for instant in sorted(arrivals_us):
        while inside and inside[0] <= instant - length_us:
            inside.popleft()
        if len(inside) < limit:
            inside.append(instant)
            admitted += 1
    return admitted
