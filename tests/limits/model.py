"""What the table must decide, in the plainest Python: one process, no crash, room for every key.

`Model` answers like the table, decision by decision and instant by instant. It must know the number of
stripes, because the latest instant is kept for each. `worst` judges a log of what was admitted, with no idea
of slots at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ratelimitd.limits.table_values import Request
from ratelimitd.limits.window import SLOTS

STALE_US = 1_000_000


class Window:
    """The count of one key: the slot that is filling, and the closed ones in units of 2**shift."""

    def __init__(self, slot: int) -> None:
        self.newest = slot
        self.cur = 0
        self.closed: dict[int, int] = {}

    def count_in(self, slot: int, shift: int) -> int:
        """Settle at `slot`; the units of every slot that overlaps the window."""
        if slot > self.newest:
            self.closed[self.newest] = -(-self.cur // (1 << shift))
            self.newest, self.cur = slot, 0
        self.closed = {s: units for s, units in self.closed.items() if s >= slot - SLOTS}
        return (sum(self.closed.values()) << shift) + self.cur


class Model:
    def __init__(self, stripes: int) -> None:
        self._stripes = stripes
        self._tmax: dict[int, int] = {}
        self._windows: dict[int, Window] = {}

    def decide(self, requests: Sequence[Request], now_us: int) -> tuple[str, int, tuple[int, ...] | None]:
        """Verdict, instant of the decision, and what each charge used if it was admitted."""
        merged = _merge(requests)
        stripes = {key % self._stripes for key in merged}
        at_us = max([now_us, *(self._tmax.get(stripe, 0) for stripe in stripes)])
        if at_us > now_us + STALE_US:
            return "stale", at_us, None
        self._tmax |= dict.fromkeys(stripes, at_us)
        over = {key for key, request in merged.items() if not self._has_room(request, at_us)}
        if any(not merged[key].observe for key in over):
            return "refused", at_us, None
        for key in merged.keys() - over:
            window = self._windows.setdefault(key, Window(at_us // merged[key].slot_us))
            window.cur += merged[key].cost
        return "admitted", at_us, tuple(self._used(request, at_us) for request in requests)

    def _has_room(self, request: Request, at_us: int) -> bool:
        return self._used(request, at_us) + request.cost <= request.limit

    def _used(self, request: Request, at_us: int) -> int:
        window = self._windows.get(request.key)
        return window.count_in(at_us // request.slot_us, request.shift) if window else 0


def _merge(requests: Iterable[Request]) -> dict[int, Request]:
    merged: dict[int, Request] = {}
    for request in requests:
        before = merged.get(request.key)
        merged[request.key] = before._replace(cost=before.cost + request.cost) if before else request
    return merged


def worst(log: Iterable[tuple[int, int]], window_us: int) -> int:
    """The most units in any closed window [a, a + window_us] of a log of (instant, cost)."""
    ordered = sorted(log)
    first = total = most = 0
    for at_us, cost in ordered:
        total += cost
        while ordered[first][0] < at_us - window_us:
            total -= ordered[first][1]
            first += 1
        most = max(most, total)
    return most
