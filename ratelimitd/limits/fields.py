"""What a client is told about its limits: RateLimit-Policy, RateLimit and Retry-After.

The list form of the IETF draft "RateLimit header fields for HTTP": a name, the quota and its window, and
what is left of it. In a sliding window the whole quota is back when the newest request has left it, so `t`
of an admitted answer is the window; for a refused one it is when capacity returns, never earlier.
"""

from __future__ import annotations

from typing import Final

_SECOND_US: Final = 1_000_000
_UNITS: Final = (
    (86_400_000_000, "d"),
    (3_600_000_000, "h"),
    (60_000_000, "min"),
    (1_000_000, "s"),
    (1_000, "ms"),
)


def window_text(window_us: int) -> str:
    """The window as it is written in a rate: `s`, `10s`, `5min`, `1h`, `100ms`."""
    for unit_us, unit in _UNITS:
        if window_us % unit_us == 0:
            return f"{window_us // unit_us}{unit}"
    return f"{window_us}us"


def item_name(limit: str, window_us: int, position: int) -> str:
    """The name of one rate of a limit: the limit's, for a second rate with its window."""
    return limit if position == 0 else f"{limit}/{window_text(window_us)}"


def seconds(duration_us: int) -> int:
    """Whole seconds, rounded up, at least one: a client that obeys never comes too early."""
    return max(1, -(-duration_us // _SECOND_US))


def policy_line(name: str, quota: int, window_us: int) -> bytes:
    """`RateLimit-Policy: "name";q=100;w=10`; `w` is left out below a second."""
    window = f";w={window_us // _SECOND_US}" if window_us >= _SECOND_US else ""
    return f'RateLimit-Policy: "{name}";q={quota}{window}\r\n'.encode()


def remaining_prefix(name: str) -> bytes:
    """The RateLimit line up to the number that is left."""
    return f'RateLimit: "{name}";r='.encode()


def remaining_suffix(window_us: int) -> bytes:
    """The RateLimit line behind the number that is left, for an admitted request."""
    return f";t={seconds(window_us)}\r\n".encode()
