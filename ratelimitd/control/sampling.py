"""Samples of pressure: the growth of what the kernel counts, beside what the workers say of themselves.

A sample is made of the worker that is worst off. The kernel books a wait, and a pause of a quota, when it is
over: one of 80 ms may fall into this span or the next, so shares of waiting are taken over two spans as well.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from typing import TYPE_CHECKING, Final

from ratelimitd.control import signals
from ratelimitd.overload.samples import VALID_US, Sample

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from ratelimitd.control.signals import CpuTime
    from ratelimitd.segment.pages import Page

_SPANS: Final = 2
_LEAST_RAN: Final = 0.01


@dataclasses.dataclass(frozen=True)
class _Readings:
    """What only grows, as it was at one instant; by process."""

    at_us: int
    cpu: Mapping[int, CpuTime | None]
    throttled_us: Mapping[int, int | None]
    stalled_us: int | None


class Sampling:
    """`take` a sample of the workers behind these pages, regularly."""

    def __init__(self, proc: Path, cgroups: Path) -> None:
        self._proc = proc
        self._cgroups = cgroups
        self._stall = signals.Stall(proc, cgroups)
        self._past: deque[_Readings] = deque(maxlen=_SPANS)

    def take(self, workers: Sequence[Page], now_us: int) -> Sample | None:
        """What the workers wanted since the look before, and how late they are; None at the first."""
        alive = [page for page in workers if now_us - page.heartbeat_us <= VALID_US]
        now = _Readings(
            now_us,
            {page.owner: signals.cpu_time(page.owner, self._proc) for page in alive},
            {page.owner: signals.throttled_us(page.owner, self._proc, self._cgroups) for page in alive},
            self._stall.stalled_us(),
        )
        past = tuple(self._past)
        self._past.append(now)
        if not past or now_us <= past[-1].at_us:
            return None
        before, span_us = past[-1], now_us - past[-1].at_us
        if span_us > VALID_US:
            past = past[-1:]
        throttled = {page.owner: _throttled(past[0], now, page.owner) for page in alive}
        queues_us = {page.owner: _queue_us(page, past[0], now) for page in alive}

        def late_us(page: Page) -> int:
            queue_us = queues_us[page.owner]
            return queue_us if throttled[page.owner] else max(page.lag_us, queue_us)

        worst = max(alive, key=late_us, default=None)
        return Sample(
            at_us=now_us,
            span_us=span_us,
            busy=_most(_wanted(readings, now, page.owner) for readings in past for page in alive),
            lag_us=worst.lag_us if worst else None,
            throttled=throttled[worst.owner] if worst else None,
            stall=_share(_grown(before.stalled_us, now.stalled_us), span_us),
            ran=_most(_ran(before, now, page.owner) for page in alive),
            queue_us=queues_us[worst.owner] if worst else None,
        )


def _queue_us(page: Page, before: _Readings, now: _Readings) -> int:
    """How long it takes to serve what waits for a worker, at the pace at which it ran."""
    return round(page.waiting_us / max(_ran(before, now, page.owner) or 0.0, _LEAST_RAN))


def _wanted(before: _Readings, now: _Readings, pid: int) -> float | None:
    """Share of the time in which a process ran or waited for a CPU."""
    old, new = before.cpu.get(pid), now.cpu.get(pid)
    if old is None or new is None:
        return None
    grown_ns = _grown(old.ran_ns + old.waited_ns, new.ran_ns + new.waited_ns)
    return None if grown_ns is None else grown_ns / 1000 / (now.at_us - before.at_us)


def _ran(before: _Readings, now: _Readings, pid: int) -> float | None:
    old, new = before.cpu.get(pid), now.cpu.get(pid)
    if old is None or new is None or new.ran_ns < old.ran_ns:
        return None
    return (new.ran_ns - old.ran_ns) / 1000 / (now.at_us - before.at_us)


def _throttled(before: _Readings, now: _Readings, pid: int) -> float | None:
    """Share of the time in which a quota stopped a process."""
    grown_us = _grown(before.throttled_us.get(pid), now.throttled_us.get(pid))
    return _share(grown_us, now.at_us - before.at_us)


def _grown(before: int | None, now: int | None) -> int | None:
    """By how much a count grew; one that went back was begun anew, and tells nothing."""
    return None if before is None or now is None or now < before else now - before


def _share(grown_us: int | None, span_us: int) -> float | None:
    return None if grown_us is None else grown_us / span_us


def _most(shares: Iterable[float | None]) -> float | None:
    return max((share for share in shares if share is not None), default=None)
