"""The law on recorded series, its bounds for any series, and its way back to nothing.

A series is a file: a line of the settings it was recorded under, then one line for each sample (busy, lag in
ms, throttled, stall; `-` for what could not be read) with the level that is expected after it. `gap MS` is a
time without a sample at all.
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


def sample(now_us: int, busy: float | None, lag_us: int | None, *others: float | None) -> Sample:
    return Sample(now_us, EVERY_US, busy, lag_us, *others)


def number(text: str) -> float | None:
    return None if text == "-" else float(text)


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
        busy, lag_ms, throttled, stalled, expected = map(number, row)
        lag_us = None if lag_ms is None else round(lag_ms * 1000)
        state = judge(targets, state, sample(now_us, busy, lag_us, throttled, stalled), now_us)
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
            assert -0.0501 <= after.level - state.level <= 0.4001
            assert after.believed_us == now_us
        else:
            assert after.level <= max(0.0, state.level - 0.0499)
            assert isinstance(after.why, Fault)
            if now_us - state.believed_us >= VALID_US:
                assert after.level == 0.0
        state = after


@given(lags=st.lists(st.integers(0, 10**7), max_size=100), calm_lag_us=st.integers(0, 9_999))
def test_it_returns_to_nothing_within_five_seconds_of_calm(lags: list[int], calm_lag_us: int) -> None:
    state, now_us = State(), 0
    for lag_us in lags:
        now_us += EVERY_US
        state = judge(TARGETS, state, sample(now_us, 1.0, lag_us), now_us)
    for _ in range(20):
        now_us += EVERY_US
        state = judge(TARGETS, state, sample(now_us, 1.0, calm_lag_us), now_us)
    assert state.level == 0.0


@given(lags=st.lists(st.integers(0, 10**7), max_size=100), busy=st.floats(0.0, 0.9))
def test_without_want_of_cpu_lag_alone_sheds_nothing(lags: list[int], busy: float) -> None:
    state = State()
    for position, lag_us in enumerate(lags):
        now_us = (position + 1) * EVERY_US
        state = judge(TARGETS, state, sample(now_us, busy, lag_us), now_us)
        assert state.level == 0.0


@given(lag_us=st.integers(20_001, 10**7), more_us=st.integers(0, 10**7), level=st.integers(0, 20))
def test_more_lag_never_raises_less(lag_us: int, more_us: int, level: int) -> None:
    state = State(level / 20, 0, Finding.LATE)
    less = judge(TARGETS, state, sample(EVERY_US, 1.0, lag_us), EVERY_US)
    more = judge(TARGETS, state, sample(EVERY_US, 1.0, lag_us + more_us), EVERY_US)
    assert state.level <= less.level <= more.level


@given(lags=st.lists(st.integers(20_001, 10**7), min_size=2, max_size=30), highest=st.floats(0.01, 0.99))
def test_the_highest_class_goes_a_second_after_all_others(lags: list[int], highest: float) -> None:
    state, gone_since = State(), 0
    for position, lag_us in enumerate(lags, 1):
        now_us = position * EVERY_US
        state = judge(TARGETS, state, sample(now_us, 1.0, lag_us), now_us, highest)
        rest = round(1.0 - highest, 6)
        if not gone_since and state.level >= rest:
            gone_since = position
        assert state.level <= rest or (gone_since and position - gone_since >= 4)
    for position in range(len(lags) + 1, len(lags) + 40):
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
