"""Pressure into a shed level: the one law, (targets, state, sample) -> state.

Pressure is what a request waits before anyone looks at it: the lag of the workers' loops while they want all
of their CPU. It begins with the second pressed sample: one alone is a moment that a neighbour took, not a
surge. Up the level goes by the lag, twice as far with each pressed sample: clients that find no free
connection wait where nobody sees them, and the later the level is high enough, the more they are. Down it
goes half of the way to where the workers would be just full, as their CPU time tells, or where it was too low
of late. That finds what a quota or a neighbour leaves them, too. Where only the highest class is left it
waits: the backlog of a surge must not be paid by what matters most.
Without a sample that can be believed the level falls, and after 2 s there is none.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Final

from ratelimitd.overload.samples import VALID_US, Fault, Sample, fault

_STEP: Final = 0.05
# The first step is a long one; later, what is just above its target raises the level by a fifth of two steps.
_FIRST: Final = 0.25
_OFFSET: Final = 0.8
_LEAST_EXCESS: Final = 0.5
_MOST: Final = 0.5  # that one sample changes
# Of full workers that are in time: clients that always ask again keep them full at any level.
_LEAST_FALL: Final = 0.01
# What a refusal costs of a request that is served: measured at 0.47 to 0.6.
_REFUSAL: Final = 0.5
_FULL: Final = 0.93  # of the CPU time that workers take who cannot take more
_LEARNT: Final = 0.3  # what one sample counts in that: under a quota some hold one burst more than others
_HELD_SAMPLES: Final = 4
# Cutting a small highest class frees little: that must wait until the backlog of all others had time to go.
_HELD_SAMPLES_OF_FEW: Final = 40
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
    pressed: int = 0  # samples that were so since the last that was calm
    full: float = 0.0  # share of a CPU that the busiest worker took when it was late; 0: not known
    tipped: float = 0.0  # the level at which it was pressed again; 0: not known


def judge(
    targets: Targets, state: State, sample: Sample | None, now_us: int, highest_class: float = 0.0
) -> State:
    """The state after `sample`, or after none; `highest_class` is that class's share of all requests."""
    wrong = fault(sample, now_us)
    if sample is None or wrong is not None:
        falling = max(0.0, _rounded(state.level - _STEP))
        level = falling if now_us - state.believed_us < VALID_US else 0.0
        return State(level, state.believed_us, wrong or Fault.MISSING, full=state.full)
    late = sample.late_us / targets.lag_us
    stalled = 0.0 if targets.stall is None else (sample.stall or 0.0) / targets.stall
    pressed = late if sample.wanted > targets.busy else 0.0
    if max(pressed, stalled) > 1.0:
        why = Finding.LATE if pressed >= stalled else Finding.STALLED
        full = _learnt(state.full, sample.ran) if why is Finding.LATE else state.full
        tipped = state.tipped if state.pressed else state.level
        after = State(state.level, now_us, why, state.held, state.pressed + 1, full, tipped)
        if state.level == 0 and not state.pressed:
            return after
        by = _STEP * (stalled - _OFFSET) if why is Finding.STALLED else _rise(state, late)
        return _raised(after, by, highest_class)
    if max(late, stalled) < 0.5:
        level = 0.0 if state.level == 0 else min(_lowered(state, sample), _rest(highest_class))
        if level == 0:
            return State(0.0, now_us, Finding.CALM)
        return State(level, now_us, Finding.CALM, full=state.full, tipped=state.tipped)
    pressed_before = state.pressed if sample.wanted > targets.busy else 0
    level = state.level if _may_go(state, highest_class) else min(state.level, _rest(highest_class))
    return dataclasses.replace(
        state, level=level, believed_us=now_us, why=Finding.BETWEEN, pressed=pressed_before
    )


def _rise(state: State, late: float) -> float:
    """Twice as much with each pressed sample; `late` is the lag over its target."""
    first = 2 * _STEP * max(_LEAST_EXCESS, late - _OFFSET)
    if state.level == 0:
        return min(_MOST, max(_FIRST, first))
    return min(_MOST, first * 2.0 ** min(state.pressed - 1, 8))


def _raised(state: State, by: float, highest_class: float) -> State:
    level = min(1.0, _rounded(state.level + by))
    if level <= _rest(highest_class) or _may_go(state, highest_class):
        return dataclasses.replace(state, level=level)
    return dataclasses.replace(state, level=_rest(highest_class), held=state.held + 1)


def _rest(highest_class: float) -> float:
    """The level at which only the highest class is left."""
    return _rounded(1.0 - highest_class)


def _may_go(state: State, highest_class: float) -> bool:
    """Whether the level has waited there long enough."""
    return state.held >= (_HELD_SAMPLES if highest_class >= 0.5 else _HELD_SAMPLES_OF_FEW)


def _lowered(state: State, sample: Sample) -> float:
    """The level after calm: half of the way to where the workers would be just full, if that is known."""
    above_tipped = (state.level - state.tipped - _STEP) / 2 if state.tipped else 0.0
    if sample.throttled:
        # All of a quota is used at any level, since a deep queue is served in fewer turns.
        fall = above_tipped or _STEP
    elif state.full and sample.ran is not None:
        # Requests cost 1 - level * (1 - _REFUSAL) each; they could cost _FULL * full / ran times as much.
        cost = (1.0 - state.level * (1.0 - _REFUSAL)) * _FULL * state.full / max(sample.ran, 0.001)
        fall = max(above_tipped, (state.level - (1.0 - cost) / (1.0 - _REFUSAL)) / 2)
    else:
        fall = _STEP
    return max(0.0, _rounded(state.level - min(_MOST, max(_LEAST_FALL, fall))))


def _learnt(full: float, ran: float | None) -> float:
    if ran is None:
        return full
    return full + _LEARNT * (ran - full) if full else ran


def _rounded(level: float) -> float:
    return round(level, _DIGITS)
