"""Pressure into a shed level: the one law, (targets, state, sample) -> state.

Pressure is what a request waits before anyone looks at it: the lag of the workers' loops while they want all
of their CPU. The law is an integral: it raises the level while the lag is above its target and lowers it
while the lag is under half of it, and so finds the level that the load needs, whatever a refusal costs. It
begins with the second pressed sample in a row: one alone is a moment that a neighbour took, not a surge. At
the level where only the highest class is left it waits for a second: the backlog of a surge is still there
when the level is long high enough, and what matters most must not pay for that.
Without a sample that can be believed the level falls, and after 2 s there is none.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Final

from ratelimitd.overload.samples import VALID_US, Fault, Sample, fault

_STEP: Final = 0.05
# What is far above its target raises the level by at most this many steps; what is just above it by a fifth.
_MOST_STEPS: Final = 8.0
_OFFSET: Final = 0.8
_HELD_SAMPLES: Final = 4
_DIGITS: Final = 6  # levels are told in millionths: below that there is nothing


@dataclasses.dataclass(frozen=True)
class Targets:
    """`stall` is a target only where the web servers share the machine (`signal: machine`); else None."""

    busy: float
    lag_us: int
    stall: float | None


class Finding(enum.Enum):
    """What the law saw in a sample that it believed."""

    LATE = "the workers want all of their CPU and are late"
    STALLED = "the machine has too little CPU for all that want it"
    BETWEEN = "neither pressed nor free: the level stays"
    CALM = "no pressure"


@dataclasses.dataclass(frozen=True)
class State:
    """The level after a sample, why, and when a sample was last believed."""

    level: float = 0.0
    believed_us: int = 0
    why: Finding | Fault = Fault.MISSING
    held: int = 0  # samples for which the level has waited where only the highest class is left

    @property
    def pressed(self) -> bool:
        return self.why in {Finding.LATE, Finding.STALLED}


def judge(
    targets: Targets, state: State, sample: Sample | None, now_us: int, highest_class: float = 0.0
) -> State:
    """The state after `sample`, or after none; `highest_class` is that class's share of all requests."""
    wrong = fault(sample, now_us)
    if sample is None or wrong is not None:
        falling = _lowered(state.level) if now_us - state.believed_us < VALID_US else 0.0
        return State(falling, state.believed_us, wrong or Fault.MISSING)
    late = (sample.lag_us or 0) / targets.lag_us
    stalled = 0.0 if targets.stall is None else (sample.stall or 0.0) / targets.stall
    pressed = late if sample.wanted > targets.busy else 0.0
    if max(pressed, stalled) > 1.0:
        why = Finding.LATE if pressed >= stalled else Finding.STALLED
        if state.level == 0 and not state.pressed:
            return State(0.0, now_us, why)
        level = _raised(state.level, max(pressed, stalled))
        rest = round(1.0 - highest_class, _DIGITS)
        if level <= rest:
            return State(level, now_us, why)
        if state.held < _HELD_SAMPLES and state.level <= rest:
            return State(rest, now_us, why, state.held + 1)
        return State(level, now_us, why, state.held)
    if max(late, stalled) < 0.5:
        return State(_lowered(state.level), now_us, Finding.CALM)
    return State(state.level, now_us, Finding.BETWEEN)


def _raised(level: float, excess: float) -> float:
    return min(1.0, round(level + _STEP * min(_MOST_STEPS, excess - _OFFSET), _DIGITS))


def _lowered(level: float) -> float:
    return max(0.0, round(level - _STEP, _DIGITS))
