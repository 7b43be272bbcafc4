"""Durations, sizes, counts, rates and percentages: exact, and the same after writing and reading again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.config import units
from ratelimitd.config.model import Rate

if TYPE_CHECKING:
    from collections.abc import Callable

READERS = [units.duration_ms, units.size_bytes, units.count, units.rate, units.share]


@pytest.mark.parametrize(
    ("text", "value_ms"),
    [
        ("0s", 0),
        ("250ms", 250),
        ("10s", 10_000),
        ("5m", 300_000),
        ("5min", 300_000),
        ("1h", 3_600_000),
        ("1d", 86_400_000),
        ("366d", 366 * 86_400_000),
    ],
)
def test_duration(text: str, value_ms: int) -> None:
    assert units.duration_ms(text) == value_ms


@pytest.mark.parametrize(
    ("text", "value"),
    [("0B", 0), ("1B", 1), ("64KiB", 65_536), ("10MiB", 10_485_760), ("1GiB", 1_073_741_824)],
)
def test_size(text: str, value: int) -> None:
    assert units.size_bytes(text) == value


@pytest.mark.parametrize(
    ("text", "count", "window_us"),
    [
        ("100/s", 100, 1_000_000),
        ("100/10s", 100, 10_000_000),
        ("5/min", 5, 60_000_000),
        ("5/m", 5, 60_000_000),
        ("10k/h", 10_000, 3_600_000_000),
        ("1M/d", 1_000_000, 86_400_000_000),
        ("1/ms", 1, 1_000),
        ("10/100ms", 10, 100_000),
        ("2147483647/366d", 2**31 - 1, 366 * 86_400_000_000),
    ],
)
def test_rate(text: str, count: int, window_us: int) -> None:
    assert units.rate(text) == Rate(count, window_us)


@pytest.mark.parametrize(
    ("text", "value"), [("0%", 0.0), ("90%", 0.9), ("99.5%", 0.995), ("100%", 1.0), ("0.1%", 0.001)]
)
def test_share(text: str, value: float) -> None:
    assert units.share(text) == value


@pytest.mark.parametrize(
    ("read", "text", "reason"),
    [
        (units.duration_ms, "10", "has no unit"),
        (units.duration_ms, "10 s", "is no duration"),
        (units.duration_ms, "1.5s", "is no duration"),
        (units.duration_ms, "-1s", "is no duration"),
        (units.duration_ms, "1h30m", "is no duration"),
        (units.duration_ms, "10S", "unknown unit 'S'"),
        (units.duration_ms, "10w", "unknown unit 'w'"),
        (units.duration_ms, "367d", "longer than 366d"),
        (units.duration_ms, "9" * 5_000 + "s", "is no duration"),
        (units.duration_ms, "\u0661s", "is no duration"),
        (units.duration_ms, "10s\n", "is no duration"),
        (units.size_bytes, "64", "has no unit"),
        (units.size_bytes, "64K", "unknown unit 'K'"),
        (units.size_bytes, "64KB", "unknown unit 'KB'"),
        (units.count, "1m", "unknown unit 'm'"),
        (units.count, "", "is no number"),
        (units.rate, "100", "has no window"),
        (units.rate, "100/", "has no unit"),
        (units.rate, "100/10", "has no unit"),
        (units.rate, "/s", "is no number"),
        (units.rate, "0/s", "count outside of"),
        (units.rate, "2147483648/s", "count outside of"),
        (units.rate, "2148M/s", "count outside of"),
        (units.rate, "1/0s", "window outside of"),
        (units.rate, "1/367d", "longer than 366d"),
        (units.rate, "1/s/s", "is no duration"),
        (units.rate, "100 / 10s", "is no number"),
        (units.rate, "100/fortnight", "unknown unit 'fortnight'"),
        (units.share, "90", "has no percent sign"),
        (units.share, "0.9", "has no percent sign"),
        (units.share, "101%", "more than 100%"),
        (units.share, "-1%", "is no percentage"),
        (units.share, "NaN%", "is no percentage"),
        (units.share, "%", "is no percentage"),
    ],
)
def test_says_what_is_wrong(read: Callable[[str], object], text: str, reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        read(text)
    assert reason in str(caught.value)


@given(st.integers(0, units.LONGEST_DURATION_MS))
def test_durations_survive_writing(value_ms: int) -> None:
    assert units.duration_ms(units.format_duration(value_ms)) == value_ms


@given(st.integers(0, 2**50))
def test_sizes_survive_writing(value: int) -> None:
    # a number of more than 15 digits cannot be written in bytes alone
    written = units.format_size(value)
    if len(written) <= 16:
        assert units.size_bytes(written) == value


@given(st.integers(0, 10**15 - 1))
def test_counts_survive_writing(value: int) -> None:
    assert units.count(units.format_count(value)) == value


@given(
    st.builds(
        Rate,
        count=st.integers(1, units.LARGEST_COUNT),
        window_us=st.integers(1, units.LONGEST_DURATION_MS).map(lambda value_ms: value_ms * 1_000),
    )
)
def test_rates_survive_writing(rate: Rate) -> None:
    assert units.rate(units.format_rate(rate)) == rate


@given(st.integers(0, 10**8).map(lambda value: value / 10**8))
def test_shares_survive_writing(value: float) -> None:
    assert units.share(units.format_share(value)) == value


@given(st.sampled_from(READERS), st.text(max_size=20))
def test_any_text_is_read_or_refused(read: Callable[[str], object], text: str) -> None:
    """No text leads to another error than ValueError, whose sentence can be printed."""
    sentence = ""
    try:
        read(text)
    except ValueError as error:
        sentence = str(error)
    assert sentence.isprintable()
