"""What was measured of the workers in one span of time, and whether it can be believed.

A sample is what the law sees, four times a second. `None` stands for what could not be read. A sample that
is missing, old or absurd is no pressure: the worst that a broken measurement may do is not to shed.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Final

# Older than this, or taken over a longer span, a sample says nothing of now.
VALID_US: Final = 2_000_000
# The kernel's books are closed at ticks, so a little more than all may be true; each CPU under a quota counts
# its own throttled time.
_MOST_BUSY: Final = 1.5
_MOST_THROTTLED: Final = 4096.0
_MOST_STALL: Final = 1.5
_MOST_LAG_US: Final = 60_000_000


@dataclasses.dataclass(frozen=True)
class Sample:
    """`busy` and `lag_us` are those of the worker that is worst off; shares are fractions of the span."""

    at_us: int
    span_us: int
    busy: float | None  # time in which it ran or waited for a CPU
    lag_us: int | None  # median lateness of its loop
    throttled: float | None = None  # time in which a CPU quota stopped it; None: there is no quota to read
    stall: float | None = None  # PSI, cpu some
    ran: float | None = None  # time in which it ran
    queue_us: int | None = None  # how long it takes, at the pace at which it ran, to serve what always waits

    @property
    def wanted(self) -> float:
        """Share of the time in which a CPU was wanted; a quota that is used up is want like any other. Some
        kernels count its pauses as waiting, too."""
        return min(1.0, (self.busy or 0.0) + (self.throttled or 0.0))

    @property
    def late_us(self) -> int:
        """How late a worker is because of what waits for it. Where a quota stops it lag is the rest of a
        pause, however little waits: there it is the queue alone that counts."""
        queue_us = self.queue_us or 0
        return queue_us if self.throttled else max(self.lag_us or 0, queue_us)


class Fault(enum.Enum):
    """Why a sample is not believed."""

    MISSING = "the workers' CPU time or lag cannot be read"
    OLD = "the last sample is too old"
    ABSURD = "the sample is impossible"


def fault(sample: Sample | None, now_us: int) -> Fault | None:
    """None for a sample that the law may act on."""
    if sample is None or sample.busy is None or sample.lag_us is None:
        return Fault.MISSING
    if now_us - sample.at_us > VALID_US or sample.span_us > VALID_US:
        return Fault.OLD
    # Written so that NaN, for which no comparison holds, is out of bounds.
    possible = (
        0.0 <= sample.busy <= _MOST_BUSY
        and 0.0 <= (sample.throttled or 0.0) <= _MOST_THROTTLED
        and 0.0 <= (sample.stall or 0.0) <= _MOST_STALL
        and 0.0 <= (sample.ran or 0.0) <= _MOST_BUSY
        and 0 <= sample.lag_us <= _MOST_LAG_US
        and (sample.queue_us or 0) >= 0
        and sample.span_us > 0
    )
    return None if possible else Fault.ABSURD
