"""Random sequences of requests that hurt: bursts, slot edges, old clocks, long silences, equal keys.

All of a sequence follows from its seed, so a failure names the seed and can be run again alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from ratelimitd.limits.table import Request
from ratelimitd.limits.window import slot_us
from tests.limits.model import worst

WINDOWS_US = (30, 31, 100, 1_000, 1_003, 20_000, 100_000, 999_999, 10_000_000)
LIMITS = (1, 2, 3, 5, 17, 100, 65_535, 65_536 * 3, 1_000_000)

Log = dict[int, list[tuple[int, int]]]


class Scenario:
    """One table's worth of keys with their limits, and a time that jumps."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.stripes = self.random.choice((1, 2, 4))
        self.keys: dict[int, tuple[int, Request]] = {}
        for _ in range(self.random.randint(1, 6)):
            key, window_us, limit = self.random.getrandbits(64), self._window(), self.random.choice(LIMITS)
            shift = max(0, (limit - 1).bit_length() - 16)
            self.keys[key] = window_us, Request(key, slot_us(window_us), limit, 1, shift)
        self.now_us = 50_000_000 + self.random.randrange(10_000_000)

    def _window(self) -> int:
        return self.random.choice((*WINDOWS_US, self.random.randint(30, 200_000)))

    def steps(self, n: int) -> Iterator[tuple[list[Request], int]]:
        """Requests, and the instant at which each of their decisions believes to be."""
        window_us, request = self.random.choice(list(self.keys.values()))
        while n > 0:
            self._advance(window_us, request.slot_us)
            for _ in range(min(n, self.random.choice((1, 1, 2, 4, 9)))):
                n -= 1
                yield self._requests(), self._clock(window_us)

    def _advance(self, window_us: int, slot: int) -> None:
        kind = self.random.randrange(10)
        if kind < 5:
            to_edge = -self.now_us % slot + self.random.randrange(3) * slot + self.random.randint(-1, 1)
            self.now_us += max(0, to_edge)
        elif kind < 8:
            self.now_us += self.random.randint(0, 3 * slot)
        elif kind < 9:
            self.now_us += max(0, window_us + self.random.randint(-2, 2))
        else:
            self.now_us += self.random.choice((window_us // 2, 2 * window_us, 256 * slot, 3_600_000_000))

    def _clock(self, window_us: int) -> int:
        if self.random.random() < 0.7:
            return self.now_us
        if self.random.random() < 0.02:
            return self.now_us - 1_500_000
        return self.now_us - self.random.randint(0, min(2 * window_us, 900_000))

    def _requests(self) -> list[Request]:
        chosen = self.random.choices(list(self.keys.values()), k=self.random.choice((1, 1, 2, 3)))
        return [request._replace(cost=self._cost(request.limit)) for _, request in chosen]

    def _cost(self, limit: int) -> int:
        return self.random.choice((1, 1, 1, 2, max(1, limit // 3), max(1, limit - 1), limit + 1))

    def over_the_limit(self, log: Log) -> list[tuple[int, int]]:
        """(worst window, limit) of every key whose limit the log breaks."""
        found = [(worst(log[key], self.keys[key][0]), self.keys[key][1].limit) for key in log]
        return [(most, limit) for most, limit in found if most > limit]


def record(log: Log, requests: Sequence[Request], at_us: int) -> None:
    for request in requests:
        log.setdefault(request.key, []).append((at_us, request.cost))
