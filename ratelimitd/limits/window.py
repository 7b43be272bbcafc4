"""The arithmetic of a sliding window, as the table and the policy share it.

A window is cut into 31 closed slots and the one that is still filling. Its count is the sum of every slot
that overlaps the last window length, so it can count too much (by less than one slot in 32) and never too
little. Pure functions of whole numbers: no clock, no state.
"""

from __future__ import annotations

from typing import Final

SLOTS: Final = 31
LARGEST_LIMIT: Final = 2**31 - 1


def slot_us(window_us: int) -> int:
    """Length of a slot, rounded up: 31 slots shorter than the window would forget up to 30 µs early."""
    return -(-window_us // SLOTS)


def shift_for(limit: int) -> int:
    """Closed slots are kept in units of 2**shift: the finest of which 65,536 hold the whole limit."""
    return max(0, (limit - 1).bit_length() - 16)
