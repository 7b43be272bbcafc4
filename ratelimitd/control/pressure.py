"""Samples pressure four times a second, and orders what to shed.

Each look reads the workers' CPU time and lag, the quota's throttling and the machine's PSI, hands them to the
law (`overload/pressure`) and writes the level's consequence into the segment, where the workers read it. What
cannot be read is no pressure, and is said. The order is void when it was not renewed for 2 s: whatever ends
or stops this sampler ends shedding too.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Final

from ratelimitd.control import signals
from ratelimitd.control.cpus import CGROUPS, own_quota
from ratelimitd.control.demand import Demand
from ratelimitd.control.sampling import Sampling
from ratelimitd.control.shed_report import Look, ShedReport, report
from ratelimitd.overload.pressure import Finding, State, Targets, judge
from ratelimitd.overload.priorities import passing
from ratelimitd.overload.retry_after import spare_per_s, spread_s
from ratelimitd.overload.samples import VALID_US, Fault, Sample
from ratelimitd.overload.surges import Ended, Started, Surge, follow
from ratelimitd.segment import layout
from ratelimitd.segment.memory import boottime_us
from ratelimitd.segment.shedding import MILLION, ShedOrder, ShedWords

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ratelimitd.config.model import Shedding
    from ratelimitd.segment.memory import Segment
    from ratelimitd.segment.pages import Page

logger = logging.getLogger(__name__)

EVERY_S: Final = 0.25
_KEPT: Final = 20  # looks: five seconds


class Sampler:
    """`workers` gives the pages of those that run; `shedding` the settings in force; `note` keeps the start
    and the end of a surge (`Journal.note`)."""

    def __init__(
        self,
        segment: Segment,
        workers: Callable[[], Sequence[Page]],
        shedding: Callable[[], Shedding],
        note: Callable[..., None],
        *,
        proc: Path = signals.PROC,
        cgroups: Path = CGROUPS,
    ) -> None:
        self._segment = segment
        self._workers = workers
        self._shedding = shedding
        self._note = note
        self._cgroups = cgroups
        self._sampling = Sampling(proc, cgroups)
        self._words = ShedWords(segment.memory)
        self._demand = Demand(segment.registry)
        self._looks: deque[Look] = deque(maxlen=_KEPT)
        self._state = State()
        self._surge: Surge | None = None
        self._shed_before = 0
        self._sight = _Sight(boottime_us())

    async def run(self) -> None:
        """Look for ever. What there was to see is judged from now on: workers start before this is called."""
        self._sight = _Sight(boottime_us())
        while True:
            self.look(boottime_us())
            await asyncio.sleep(EVERY_S)

    def look(self, now_us: int) -> None:
        """One sample, and what follows from it."""
        shedding = self._shedding()
        workers = self._workers()
        own = [self._segment.page(layout.BASE_PAGE), self._segment.page(layout.SUPERVISOR_PAGE)]
        self._demand.look(workers, [*own, *workers], now_us)
        sample = self._sampling.take(workers, now_us)
        if shedding.signal == "none":
            self._state = State(0.0, now_us, Finding.CALM)
        else:
            arrivals = self._demand.arrivals()
            highest = arrivals[0] / (sum(arrivals) or 1)
            self._state = judge(_targets(shedding), self._state, sample, now_us, highest)
            self._sight.tell(self._state, sample, now_us)
        shares = passing(self._state.level, self._demand.arrivals())
        self._looks.append(Look(now_us, sample, self._state.level, self._state.why, shares))
        self._order(shares, sample)
        self._follow_surge(sample, now_us)

    def report(self) -> ShedReport:
        """What operators are shown, as of now."""
        quota = own_quota(self._cgroups)
        return report(self._shedding().signal, self._looks, quota, boottime_us())

    def _order(self, shares: Sequence[float], sample: Sample | None) -> None:
        """Tells the workers who passes, and how long the others are to stay away."""
        offered, admitted = self._demand.per_s()
        spare = spare_per_s(admitted, offered, sample.wanted if sample else 1.0)
        critical, high, normal, sheddable = (round(share * MILLION) for share in shares)
        self._words.write(
            ShedOrder(
                (critical, high, normal, sheddable),
                round(self._state.level * MILLION),
                spread_s(self._demand.shed_lately(), spare),
                self._state.believed_us,
            )
        )

    def _follow_surge(self, sample: Sample | None, now_us: int) -> None:
        self._surge, event = follow(self._surge, self._state.level, now_us)
        if isinstance(event, Started):
            self._shed_before = self._demand.shed_total
            busy, lag_ms = (sample.wanted, (sample.lag_us or 0) / 1000) if sample else (0.0, 0.0)
            message = (
                f"shedding starts at {event.level:.0%} of requests, lowest priority first: "
                f"{self._state.why.value} (busy {busy:.0%}, lag {lag_ms:.0f} ms)"
            )
            logger.warning("%s; if it goes on, this machine needs more CPU or lower limits", message)
            self._note("shed_start", message, level=event.level, busy=busy, lag_ms=lag_ms)
        elif isinstance(event, Ended):
            refused = self._demand.shed_total - self._shed_before
            message = (
                f"shedding ended: it lasted {event.lasted_us / 1e6:.1f} s, at its height {event.peak:.0%} of "
                f"requests, and refused {refused} in all"
            )
            logger.warning("%s", message)
            self._note(
                "shed_end", message, lasted_ms=event.lasted_us // 1000, peak=event.peak, refused=refused
            )


class _Sight:
    """Says once that there are no samples to go by, and that there are again."""

    def __init__(self, since_us: int) -> None:
        self._since_us = since_us
        self._blind = False

    def tell(self, state: State, sample: Sample | None, now_us: int) -> None:
        if sample is not None and sample.span_us > VALID_US:
            logger.warning("no sample for %.1f s: nothing was shed in that time", sample.span_us / 1e6)
        if not isinstance(state.why, Fault):
            if self._blind:
                logger.info("pressure is sampled again")
            self._since_us, self._blind = now_us, False
        elif not self._blind and now_us - self._since_us > VALID_US:
            self._blind = True
            logger.warning(
                "nothing can be shed: %s; /api/status says which signals there are", state.why.value
            )


def _targets(shedding: Shedding) -> Targets:
    stall = shedding.stall if shedding.signal == "machine" else None
    return Targets(shedding.busy, shedding.lag_ms * 1000, stall)
