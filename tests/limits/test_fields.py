"""The RateLimit fields of the IETF draft, in list form, and times that bring no client back too early."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.limits import fields


@pytest.mark.parametrize(
    ("window_us", "text"),
    [
        (1_000_000, "1s"),
        (10_000_000, "10s"),
        (60_000_000, "1min"),
        (300_000_000, "5min"),
        (3_600_000_000, "1h"),
        (86_400_000_000, "1d"),
        (100_000, "100ms"),
        (1_500_000, "1500ms"),
        (7, "7us"),
    ],
)
def test_window_text(window_us: int, text: str) -> None:
    assert fields.window_text(window_us) == text


def test_names() -> None:
    assert fields.item_name("per-client", 10_000_000, 0) == "per-client"
    assert fields.item_name("per-client", 3_600_000_000, 1) == "per-client/1h"


@pytest.mark.parametrize(
    ("window_us", "line"),
    [
        (10_000_000, b'RateLimit-Policy: "per-client";q=100;w=10\r\n'),
        (1_000_000, b'RateLimit-Policy: "per-client";q=100;w=1\r\n'),
        (999_999, b'RateLimit-Policy: "per-client";q=100\r\n'),
    ],
)
def test_policy_line(window_us: int, line: bytes) -> None:
    assert fields.policy_line("per-client", 100, window_us) == line


@given(st.integers(0, 10**12))
def test_seconds_never_bring_a_client_back_too_early(duration_us: int) -> None:
    seconds = fields.seconds(duration_us)
    assert seconds * 1_000_000 >= duration_us
    assert seconds == 1 or (seconds - 1) * 1_000_000 < duration_us
