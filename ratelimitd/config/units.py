"""Durations, sizes, counts, rates and percentages as operators write them.

Every reader takes the text of one value and returns an exact whole number in the smallest unit (milliseconds,
microseconds, bytes), or raises ValueError with a sentence that says what is wrong with the text. Nothing is
guessed: a number without a unit, a fraction or a space is an error. Every writer gives the shortest text that
the reader turns into the same value again.
"""

from __future__ import annotations

import decimal
import re

from ratelimitd.config.model import Rate

LARGEST_COUNT = 2**31 - 1
SHORTEST_WINDOW_US = 1_000
LONGEST_WINDOW_US = 366 * 86_400_000_000
LONGEST_DURATION_MS = LONGEST_WINDOW_US // 1_000

DURATION = "a duration such as 250ms, 10s, 5m, 1h or 1d"
SIZE = "a size such as 512B, 64KiB, 10MiB or 1GiB"
COUNT = "a whole number such as 500, 10k or 1M"
RATE = "a rate such as 100/s, 100/10s, 5/min, 10k/h or 1M/d"
SHARE = "a percentage such as 90%"

DURATION_PATTERN = r"[0-9]{1,15}(ms|s|min|m|h|d)"
SIZE_PATTERN = r"[0-9]{1,15}(B|KiB|MiB|GiB)"
COUNT_PATTERN = r"[0-9]{1,15}[kM]?"
RATE_PATTERN = r"[0-9]{1,15}[kM]?/([0-9]{1,15})?(ms|s|min|m|h|d)"
SHARE_PATTERN = r"[0-9]{1,3}(\.[0-9]{1,6})?%"

_MILLISECONDS = {"ms": 1, "s": 1_000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_BYTES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_TIMES = {"": 1, "k": 1_000, "M": 1_000_000}
# What others write, and what it is called here.
_SPELLINGS = {
    **dict.fromkeys(("millisecond", "milliseconds", "msec", "millis"), "ms"),
    **dict.fromkeys(("S", "sec", "secs", "second", "seconds"), "s"),
    **dict.fromkeys(("mins", "minute", "minutes"), "min"),
    **dict.fromkeys(("H", "hr", "hrs", "hour", "hours"), "h"),
    **dict.fromkeys(("D", "day", "days"), "d"),
    **dict.fromkeys(("b", "bytes"), "B"),
    **dict.fromkeys(("k", "K", "kb", "kB", "KB", "Ki", "kib"), "KiB"),
    **dict.fromkeys(("m", "M", "mb", "MB", "Mi", "mib"), "MiB"),
    **dict.fromkeys(("g", "G", "gb", "GB", "Gi", "gib"), "GiB"),
}
_NUMBER_AND_UNIT = re.compile(r"([0-9]{1,15})([A-Za-z]*)")


def _split(text: str, units: dict[str, int], noun: str) -> tuple[int, str]:
    """The number and the unit of `text`; a unit that is not one of `units` is an error."""
    found = _NUMBER_AND_UNIT.fullmatch(text)
    if found is None:
        closed_up = _NUMBER_AND_UNIT.fullmatch(text.replace(" ", ""))
        meant = _unit_meant(closed_up[2], units) if closed_up else ""
        raise ValueError(f"is no {noun}{_question(closed_up[1] + meant) if closed_up and meant else ''}")
    number, unit = found.groups()
    if unit not in units:
        raise ValueError(_wrong_unit(unit, number, units))
    return int(number), unit


def _wrong_unit(unit: str, before: str, units: dict[str, int]) -> str:
    """What is wrong with `unit`, and what was meant, where that can be told."""
    meant = _unit_meant(unit, units)
    what = f"has the unknown unit {unit!r}" if unit else "has no unit"
    return f"{what}{_question(before + meant) if meant else ''}"


def _unit_meant(unit: str, units: dict[str, int]) -> str:
    """The unit of ours that somebody else writes as `unit`; seconds are what has none."""
    meant = unit if unit in units else _SPELLINGS.get(unit, "" if unit else "s")
    return meant if meant in units else ""


def _question(meant: str) -> str:
    return f" (did you mean {meant}?)"


def duration_ms(text: str) -> int:
    number, unit = _split(text, _MILLISECONDS, "duration")
    value_ms = number * _MILLISECONDS[unit]
    if value_ms > LONGEST_DURATION_MS:
        raise ValueError("is longer than 366d")
    return value_ms


def size_bytes(text: str) -> int:
    number, unit = _split(text, _BYTES, "size")
    return number * _BYTES[unit]


def count(text: str) -> int:
    number, unit = _split(text, _TIMES, "number")
    return number * _TIMES[unit]


def rate(text: str) -> Rate:
    amount, slash, window = text.partition("/")
    if not slash:
        amount, _, window = text.replace(" per ", "/").partition("/")
        meant = f"{amount}/{window or 's'}"
        raise ValueError(f"has no window{_question(meant) if _is_rate(meant) else ''}")
    if amount.endswith("r") and _is_rate(f"{amount[:-1]}/{window}"):
        raise ValueError(f"is no rate{_question(f'{amount[:-1]}/{window}')}")
    units = count(amount)
    if not 1 <= units <= LARGEST_COUNT:
        raise ValueError(f"has a count outside of 1 to {LARGEST_COUNT}")
    unit = window.lstrip("0123456789")
    number = window.removesuffix(unit)
    if unit not in _MILLISECONDS and _unit_meant(unit, _MILLISECONDS):
        raise ValueError(_wrong_unit(unit, f"{amount}/{number}", _MILLISECONDS))
    window_us = 1_000 * duration_ms(window if number else f"1{window}")
    if not SHORTEST_WINDOW_US <= window_us <= LONGEST_WINDOW_US:
        raise ValueError("has a window outside of 1ms to 366d")
    return Rate(count=units, window_us=window_us)


def _is_rate(text: str) -> bool:
    try:
        return bool(rate(text))
    except ValueError:
        return False


def share(text: str) -> float:
    """A percentage as a fraction of one; the float nearest to the decimal that is written."""
    if not text.endswith("%"):
        raise ValueError("has no percent sign")
    if re.fullmatch(SHARE_PATTERN, text) is None:
        raise ValueError("is no percentage")
    value = decimal.Decimal(text[:-1]) / 100
    if value > 1:
        raise ValueError("is more than 100%")
    return float(value)


def format_duration(value_ms: int) -> str:
    return _format(value_ms, {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}, zero="0s")


def format_size(value: int) -> str:
    return _format(value, {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10, "B": 1}, zero="0B")


def format_count(value: int) -> str:
    return _format(value, {"M": 1_000_000, "k": 1_000, "": 1}, zero="0")


def format_rate(value: Rate) -> str:
    window = format_duration(value.window_us // 1_000)
    short = {"1ms": "ms", "1s": "s", "1m": "min", "1h": "h", "1d": "d"}.get(window, window)
    return f"{format_count(value.count)}/{short}"


def format_share(value: float) -> str:
    text = format((decimal.Decimal(repr(value)) * 100).normalize(), "f")
    return f"{text}%"


def _format(value: int, units: dict[str, int], zero: str) -> str:
    """`value` in the largest unit that leaves no rest; `units` from the largest to the smallest."""
    if value == 0:
        return zero
    unit, size = next((unit, size) for unit, size in units.items() if value % size == 0)
    return f"{value // size}{unit}"
