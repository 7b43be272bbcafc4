"""What an operator is shown of pressure and shedding: the level, why it is so, and what it was made from.

Frozen values that become JSON as they are. A report that is made long after the last look says so, and its
level is 0, as it is for the workers.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from ratelimitd.overload.priorities import ALL, PRIORITIES
from ratelimitd.overload.samples import VALID_US, Fault, Sample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ratelimitd.overload.pressure import Finding


@dataclasses.dataclass(frozen=True)
class Look:
    """One sample and what it led to."""

    at_us: int
    sample: Sample | None
    level: float
    why: Finding | Fault
    passing: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class ShedReport:
    """`signal` is the setting; `signals` says of each whether there is one here, `passing` how much of each
    priority is let through, and `samples` are the last ones, oldest first."""

    signal: str
    level: float
    why: str
    passing: dict[str, float]
    signals: dict[str, str]
    samples: tuple[Sample, ...]

    @property
    def busy(self) -> float | None:
        """Share of the last sample in which the busiest worker wanted a CPU."""
        return self.samples[-1].wanted if self.samples else None


def report(signal: str, looks: Sequence[Look], quota_cpus: float | None, now_us: int) -> ShedReport:
    """The report of `looks`, oldest first, made at `now_us`."""
    newest = looks[-1] if looks else None
    age_us = now_us - newest.at_us if newest is not None else 0
    fresh = newest if newest is not None and age_us <= VALID_US else None
    if signal == "none":
        why = "shedding.cpu_pressure.signal is none: nothing is shed for pressure"
    elif newest is None:
        why = "nothing is shed: there is no sample yet"
    elif fresh is None:
        why = f"nothing is shed: the last sample is {age_us / 1e6:.1f} s old"
    else:
        why = _why(fresh)
    return ShedReport(
        signal=signal,
        level=fresh.level if fresh else 0.0,
        why=why,
        passing=dict(zip(PRIORITIES, fresh.passing if fresh else ALL, strict=True)),
        signals=_signals(signal, newest.sample if newest else None, quota_cpus),
        samples=tuple(look.sample for look in looks if look.sample is not None),
    )


def _why(look: Look) -> str:
    if look.level > 0:
        return f"{look.level:.0%} of requests are shed: {look.why.value}"
    return f"nothing is shed: {look.why.value}"


def _signals(signal: str, sample: Sample | None, quota_cpus: float | None) -> dict[str, str]:
    """Which signals there are, and what is wrong with those that there are not."""
    absent = "not sampled yet" if sample is None else ""
    throttled = f"read: a quota of {quota_cpus or 0:g} CPUs"
    stall = "a trigger" if signal == "machine" else "shown only: signal is not machine"
    has = {
        "busy": (sample and sample.busy, "read", "no worker's /proc/PID/schedstat can be read"),
        "lag": (sample and sample.lag_us, "read", "no worker tells how late its loop is"),
        "throttled": (sample and quota_cpus and sample.throttled, throttled, "no CPU quota is set"),
        "stall": (sample and sample.stall, stall, "the kernel has no PSI"),
    }
    return {name: absent or (yes if value is not None else no) for name, (value, yes, no) in has.items()}
