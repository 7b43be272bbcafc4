"""Text for terminals: columns, durations, plurals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "m"))


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows in columns that are as wide as they need; the last one is not padded."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def duration(seconds: float) -> str:
    """A span as people say it: its two largest units."""
    if seconds < 60:
        return f"{seconds:.1f} s" if 0 < seconds < 10 else f"{seconds:.0f} s"
    whole, parts = int(seconds), []
    for size, unit in (*_UNITS, (1, "s")):
        if whole >= size:
            parts.append(f"{whole // size}{unit}")
            whole %= size
    return " ".join(parts[:2])


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
