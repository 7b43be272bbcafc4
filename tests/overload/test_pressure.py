"""The law on recorded series, its bounds for any series, and its way back to nothing.

A series is a file: a line of the settings it was recorded under, then one line for each sample (busy, lag in
ms, throttled, stall, and where it was read, ran and queue in ms; `-` for what could not be read) with the
level that is expected after it. `gap MS` is a time without a sample at all.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.overload.pressure import Finding, State, Targets, judge
from ratelimitd.overload.samples import VALID_US, Fault, Sample, fault

CORPUS = sorted((Path(__file__).parents[1] / "corpora/pressure").glob("*.txt"))
EVERY_US = 250_000
TARGETS = Targets(busy=0.9, lag_us=20_000, stall=None)


def sample(
    now_us: int,
    busy: float | None,
    lag_us: int | None,
    throttled: float | None = None,
    stall: float | None = None,
    ran: float | None = None,
    queue_us: int | None = None,
) -> Sample:
    return Sample(now_us, EVERY_US, busy, lag_us, throttled, stall, ran, queue_us)


def number(text: str) -> float | None:
    return None if text == "-" else float(text)


def micros(milliseconds: float | None) -> int | None:
    return None if milliseconds is None else round(milliseconds * 1000)


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_recorded_series(path: Path) -> None:
    lines = [line.split("#")[0].split() for line in path.read_text().splitlines()]
    (head, *rows) = [line for line in lines if line]
    settings = dict(part.split("=") for part in head)
    stall = float(settings["stall"]) if settings["signal"] == "machine" else None
    targets = Targets(float(settings["busy"]), int(float(settings["lag_ms"]) * 1000), stall)
    state, now_us = State(), 1_000_000
    for row in rows:
        if row[0] == "gap":
            now_us += int(row[1]) * 1000
            continue
        now_us += EVERY_US
        *values, expected = map(number, row)
        busy, lag_ms, throttled, stalled, ran, queue_ms = (*values, None, None)[:6]
        taken = sample(now_us, busy, micros(lag_ms), throttled, stalled, ran, micros(queue_ms))
        state = judge(targets, state, taken, now_us, float(settings.get("highest", 0)))
        assert state.level == pytest.approx(expected, abs=1e-6), (row, state)


ANY_SHARE = st.one_of(st.none(), st.floats(), st.floats(0, 1))
SAMPLES = st.one_of(
    st.none(),
    st.builds(
        Sample,
        at_us=st.integers(-1, 10_000_000),
        span_us=st.integers(-1, 4_000_000),
        busy=ANY_SHARE,
        lag_us=st.one_of(st.none(), st.integers(-(2**63), 2**63), st.integers(0, 200_000)),
        throttled=ANY_SHARE,
        stall=ANY_SHARE,
        ran=ANY_SHARE,
        queue_us=st.one_of(st.none(), st.integers(-(2**63), 2**63), st.integers(0, 200_000)),
    ),
)


@given(
    series=st.lists(st.tuples(st.integers(0, 3_000_000), SAMPLES), max_size=50),
    targets=st.builds(
        Targets,
        busy=st.floats(0.01, 1.0),
        lag_us=st.integers(1_000, 10_000_000),
        stall=st.one_of(st.none(), st.floats(0.01, 1.0)),
    ),
)
def test_the_level_is_a_share_whatever_is_sampled_and_moves_in_steps(
    series: list[tuple[int, Sample | None]], targets: Targets
) -> None:
    state, now_us = State(), 0
    for passed_us, taken in series:
        now_us += passed_us
        after = judge(targets, state, taken, now_us)
        assert 0.0 <= after.level <= 1.0
        if fault(taken, now_us) is None:
            assert abs(after.level - state.level) <= 0.5001
            assert after.believed_us == now_us
        else:
            assert after.level <= max(0.0, state.level - 0.0499)
            assert isinstance(after.why, Fault)
            if now_us - state.believed_us >= VALID_US:
                assert after.level == 0.0
        state = after


def after_a_surge(lags: list[int], throttled: float | None = None) -> State:
    state, now_us = State(), 0
    for lag_us in lags:
        now_us += EVERY_US
        state = judge(TARGETS, state, sample(now_us, 1.0, lag_us, throttled, None, 0.9, lag_us), now_us)
    return state


@given(
    lags=st.lists(st.integers(0, 10**7), max_size=100),
    calm_lag_us=st.integers(0, 9_999),
    ran=st.floats(0.0, 0.2),
    throttled=st.sampled_from([None, 0.7]),
)
def test_it_returns_to_nothing_within_two_seconds_of_the_end(
    lags: list[int], calm_lag_us: int, ran: float, throttled: float | None
) -> None:
    state, now_us = after_a_surge(lags, throttled), len(lags) * EVERY_US
    for _ in range(8):
        now_us += EVERY_US
        state = judge(TARGETS, state, sample(now_us, ran, calm_lag_us, None, None, ran), now_us)
    assert state.level == 0.0


@given(
    lags=st.lists(st.integers(0, 10**7), max_size=100),
    throttled=st.sampled_from([None, 0.7]),
    ran=st.one_of(st.none(), st.floats(0.0, 1.0)),
)
def test_full_workers_in_time_get_everything_back_however_full(
    lags: list[int], throttled: float | None, ran: float | None
) -> None:
    """At a hundredth a sample at the least: half a minute."""
    state, now_us = after_a_surge(lags, throttled), len(lags) * EVERY_US
    for _ in range(100):
        now_us += EVERY_US
        after = judge(TARGETS, state, sample(now_us, 1.0, 0, throttled, None, ran, 0), now_us)
        assert after.level < state.level or after.level == 0.0
        state = after
    assert state.level == 0.0


def balance(offered: float, refusal: float, quota: bool) -> list[float]:
    """A worker as a fluid queue that is offered so much of what it can serve: what it admits at each sample.

    Its clients wait for ever, in what they asked for and nobody has looked at."""
    state, now_us, waiting, admitted, step_s = State(), 0, 0.0, [], EVERY_US / 1e6
    for _ in range(240):
        now_us += EVERY_US
        cost = 1.0 - state.level * (1.0 - refusal)
        served = min(offered * step_s + waiting, step_s / cost)
        waiting += offered * step_s - served
        ran = served * cost / step_s
        lag_us = round(min(waiting * cost, 0.1) * 1e6)
        busy, throttled = (0.2, 0.8 * (ran > 0.9)) if quota else (ran, None)
        taken = sample(now_us, busy, lag_us, throttled, None, ran * (0.2 if quota else 1.0), lag_us)
        state = judge(TARGETS, state, taken, now_us, 0.1)
        admitted.append(served * (1.0 - state.level) / step_s)
    return admitted


@pytest.mark.parametrize("quota", [False, True])
@pytest.mark.parametrize("refusal", [0.35, 0.47, 0.55])
@pytest.mark.parametrize("offered", [1.1, 1.3, 1.5])
def test_it_balances_where_most_passes(offered: float, refusal: float, quota: bool) -> None:
    possible = (1.0 - refusal * offered) / (1.0 - refusal)
    admitted = balance(offered, refusal, quota)
    last = admitted[60:]
    assert sum(last) / len(last) >= 0.8 * possible


@given(lags=st.lists(st.integers(0, 10**7), max_size=100), busy=st.floats(0.0, 0.9))
def test_without_want_of_cpu_lag_alone_sheds_nothing(lags: list[int], busy: float) -> None:
    state = State()
    for position, lag_us in enumerate(lags):
        now_us = (position + 1) * EVERY_US
        state = judge(TARGETS, state, sample(now_us, busy, lag_us), now_us)
        assert state.level == 0.0


@given(lag_us=st.integers(20_001, 10**7), more_us=st.integers(0, 10**7), level=st.integers(0, 20))
def test_more_lag_never_raises_less(lag_us: int, more_us: int, level: int) -> None:
    state = State(level / 20, 0, Finding.LATE, pressed=1)
    less = judge(TARGETS, state, sample(EVERY_US, 1.0, lag_us), EVERY_US)
    more = judge(TARGETS, state, sample(EVERY_US, 1.0, lag_us + more_us), EVERY_US)
    assert state.level <= less.level <= more.level


@given(lags=st.lists(st.integers(20_001, 10**7), min_size=2, max_size=60), highest=st.floats(0.01, 0.99))
def test_the_highest_class_goes_long_after_all_others(lags: list[int], highest: float) -> None:
    state, gone_since = State(), 0
    for position, lag_us in enumerate(lags, 1):
        now_us = position * EVERY_US
        state = judge(TARGETS, state, sample(now_us, 1.0, lag_us), now_us, highest)
        rest = round(1.0 - highest, 6)
        if not gone_since and state.level >= rest:
            gone_since = position
        assert state.level <= rest or (gone_since and position - gone_since >= (4 if highest >= 0.5 else 40))
    for position in range(len(lags) + 1, len(lags) + 60):
        now_us = position * EVERY_US
        state = judge(TARGETS, state, sample(now_us, 1.0, 200_000), now_us, highest)
    assert state.level == 1.0, "nothing is held for ever"


def test_what_is_old_or_impossible_is_not_believed() -> None:
    good = sample(EVERY_US, 1.0, 0)
    assert fault(good, EVERY_US) is None
    assert fault(None, EVERY_US) is Fault.MISSING
    assert fault(dataclasses.replace(good, busy=None), EVERY_US) is Fault.MISSING
    assert fault(dataclasses.replace(good, lag_us=None), EVERY_US) is Fault.MISSING
    assert fault(good, EVERY_US + VALID_US) is None
    assert fault(good, EVERY_US + VALID_US + 1) is Fault.OLD
    assert fault(dataclasses.replace(good, span_us=VALID_US + 1), EVERY_US) is Fault.OLD
    for changes in (
        {"busy": float("nan")},
        {"busy": -0.1},
        {"busy": 1.6},
        {"throttled": float("inf")},
        {"stall": -1.0},
        {"lag_us": -1},
        {"lag_us": 61_000_000},
        {"span_us": 0},
    ):
        assert fault(dataclasses.replace(good, **changes), EVERY_US) is Fault.ABSURD, changes
