"""What the kernel says of CPU: how long a process ran and waited, how long a quota stopped it, how long
anybody waited.

All three only grow; shares are made from their differences. What a kernel or container does not have is
None, never an error: a file may vanish between any two looks.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ratelimitd.control.cpus import CGROUPS, cgroups, own_cgroups

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PROC: Final = Path("/proc")


@dataclasses.dataclass(frozen=True)
class CpuTime:
    """How long a process ran, and how long it could have but had no CPU. A wait counts when it is over."""

    ran_ns: int
    waited_ns: int


def cpu_time(pid: int, proc: Path = PROC) -> CpuTime | None:
    """None when it is gone or the kernel does not count."""
    fields = _read(proc / str(pid) / "schedstat").split()
    if len(fields) < 2 or not all(field.isdecimal() for field in fields[:2]):
        return None
    return CpuTime(int(fields[0]), int(fields[1]))


def throttled_us(pid: int, proc: Path = PROC, root: Path = CGROUPS) -> int | None:
    """How long quotas stopped anybody in the cgroup of a process and in those above it, v1 or v2; None where
    there are no quotas to ask for."""
    groups = cgroups(root, _read(proc / str(pid) / "cgroup"))
    found = [_throttled_us(_read(group / "cpu.stat")) for group in groups]
    known = [value for value in found if value is not None]
    return sum(known) if known else None


class Stall:
    """PSI, `cpu some`: of the cgroup where it has one, else of the machine."""

    def __init__(self, proc: Path = PROC, root: Path = CGROUPS, membership: str | None = None) -> None:
        groups = cgroups(root, own_cgroups() if membership is None else membership)
        self._files: Final = (*(group / "cpu.pressure" for group in groups), proc / "pressure/cpu")

    def stalled_us(self) -> int | None:
        """How long at least one task waited for a CPU."""
        return _first(_stalled_us(_read(file)) for file in self._files)


def _first(values: Iterable[int | None]) -> int | None:
    return next((value for value in values if value is not None), None)


def _throttled_us(text: str) -> int | None:
    """Of a cpu.stat: v2 counts microseconds, v1 nanoseconds."""
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name in {"throttled_usec", "throttled_time"} and value.isdecimal():
            return int(value) if name == "throttled_usec" else int(value) // 1000
    return None


def _stalled_us(text: str) -> int | None:
    """Of a pressure file: `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`."""
    for line in text.splitlines():
        kind, *fields = line.split()
        total = _value(fields, "total=")
        if kind == "some" and total.isdecimal():
            return int(total)
    return None


def _value(fields: Sequence[str], name: str) -> str:
    return next((field.removeprefix(name) for field in fields if field.startswith(name)), "")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""
