"""Two registries in the segment that only grow: limit (name, window) -> id, series (metric, labels) -> slot.

The supervisor registers, every other process looks up. A record is written once and never moves, so an id
means the same thing to all processes and for the whole life of the segment, through any reload. An id is
never used again: entries of the table and slots of the pages may outlive the configuration that named them.
"""

from __future__ import annotations

import dataclasses
import struct
from typing import TYPE_CHECKING, Final

import msgspec

from ratelimitd.errors import SegmentError
from ratelimitd.segment import layout

if TYPE_CHECKING:
    import mmap

_WORD: Final = struct.Struct("=Q")
_LENGTH: Final = struct.Struct("=I")


@dataclasses.dataclass(frozen=True)
class Series:
    """`width` consecutive slots, the same in every page."""

    metric: str
    labels: tuple[str, ...]
    slot: int
    width: int


class Registry:
    """The ids of limits and the slots of series."""

    def __init__(self, memory: mmap.mmap, plan: layout.Layout, *, registers: bool) -> None:
        self._registers = registers
        self._limit_records = _Records(memory, plan.limits, layout.LIMITS_SIZE)
        self._series_records = _Records(memory, plan.series, layout.SERIES_SIZE)
        self._limits: dict[tuple[str, int], int] = {}
        self._series: dict[tuple[str, tuple[str, ...]], Series] = {}
        self._next_slot = 0
        self._read()

    def limit_id(self, name: str, window_us: int) -> int:
        """The id of a limit's window, from 1 on. Only the supervisor makes new ones; KeyError elsewhere."""
        key = (name, window_us)
        if key not in self._limits:
            self._read()
        if key not in self._limits:
            self._may_register(key)
            if len(self._limits) == layout.MAX_LIMIT_ID:
                raise SegmentError("65535 limits were named since the daemon started: restart it for more")
            self._limit_records.append(msgspec.msgpack.encode(key))
            self._read()
        return self._limits[key]

    def series(self, metric: str, labels: tuple[str, ...], width: int = 1) -> int:
        """The first slot of a series. Only the supervisor makes new ones; KeyError elsewhere."""
        key = (metric, labels)
        if key not in self._series:
            self._read()
        if key not in self._series:
            self._may_register(key)
            if self._next_slot + width > layout.SLOTS_PER_PAGE:
                raise SegmentError(
                    f"more than {layout.SLOTS_PER_PAGE} counters were named since the daemon started: "
                    "restart it, or name fewer limits, upstreams and servers"
                )
            self._series_records.append(msgspec.msgpack.encode((metric, labels, width)))
            self._read()
        return self._series[key].slot

    def limits(self) -> dict[tuple[str, int], int]:
        """Every limit's window that was ever named, with its id."""
        return dict(self._limits)

    def all_series(self) -> tuple[Series, ...]:
        """Every series that was ever named, in the order of its slots."""
        return tuple(self._series.values())

    def _may_register(self, key: object) -> None:
        if not self._registers:
            raise KeyError(key)

    def _read(self) -> None:
        """Take in the records that were added since the last time."""
        for record in self._limit_records.unread():
            limit = msgspec.msgpack.decode(record, type=tuple[str, int])
            self._limits[limit] = len(self._limits) + 1
        for record in self._series_records.unread():
            metric, labels, width = msgspec.msgpack.decode(record, type=tuple[str, tuple[str, ...], int])
            self._series[metric, labels] = Series(metric, labels, self._next_slot, width)
            self._next_slot += width


class _Records:
    """Records behind each other, each with its length before it; the first word says how far they go."""

    def __init__(self, memory: mmap.mmap, offset: int, size: int) -> None:
        self._memory = memory
        self._offset = offset
        self._capacity = size - layout.REGISTRY_RECORDS
        self._seen = 0

    def append(self, record: bytes) -> None:
        used = self._used()
        end = used + _LENGTH.size + len(record)
        if end > self._capacity:
            raise SegmentError("the shared memory's list of names is full: restart the daemon")
        start = self._offset + layout.REGISTRY_RECORDS + used
        self._memory[start : start + _LENGTH.size + len(record)] = _LENGTH.pack(len(record)) + record
        # Last: readers go by it, and see a record whole or not at all.
        _WORD.pack_into(self._memory, self._offset + layout.REGISTRY_USED, end)

    def unread(self) -> list[bytes]:
        records = []
        used = self._used()
        while self._seen < used:
            start = self._offset + layout.REGISTRY_RECORDS + self._seen
            (length,) = _LENGTH.unpack_from(self._memory, start)
            records.append(self._memory[start + _LENGTH.size : start + _LENGTH.size + length])
            self._seen += _LENGTH.size + length
        return records

    def _used(self) -> int:
        used: int = _WORD.unpack_from(self._memory, self._offset + layout.REGISTRY_USED)[0]
        return used
