"""How many CPUs this process may use: those it is bound to, and no more than its cgroup's quota."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Final

CGROUPS: Final = Path("/sys/fs/cgroup")


def available_cpus() -> int:
    """At least 1."""
    bound = len(os.sched_getaffinity(0))
    quota = own_quota()
    return bound if quota is None else max(1, min(bound, math.ceil(quota)))


def own_quota(root: Path = CGROUPS) -> float | None:
    """The quota of this process in CPUs; None where there is none."""
    return cgroup_quota(root, own_cgroups())


def own_cgroups() -> str:
    """The cgroups of this process, as the kernel lists them."""
    return _read(Path("/proc/self/cgroup"))


def cgroup_quota(root: Path, membership: str) -> float | None:
    """The least quota, in CPUs, of the cgroups in `membership` (/proc/self/cgroup) and those above."""
    quotas = [quota for group in cgroups(root, membership) for quota in (_quota_v2(group), _quota_v1(group))]
    known = [quota for quota in quotas if quota is not None]
    return min(known, default=None)


def cgroups(root: Path, membership: str) -> list[Path]:
    """The cgroups in `membership` that may bound CPU, v1 and v2, each with those above it."""
    groups = []
    for line in membership.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            groups += _upwards(root, path)
        elif "cpu" in controllers.split(","):
            groups += _upwards(root / "cpu", path)
    return groups


def _upwards(root: Path, path: str) -> list[Path]:
    group = root / path.lstrip("/")
    return [group, *(parent for parent in group.parents if parent.is_relative_to(root))]


def _quota_v2(group: Path) -> float | None:
    quota, _, period = _read(group / "cpu.max").strip().partition(" ")
    return _ratio(quota, period)


def _quota_v1(group: Path) -> float | None:
    return _ratio(
        _read(group / "cpu.cfs_quota_us").strip(),
        _read(group / "cpu.cfs_period_us").strip(),
    )


def _ratio(quota: str, period: str) -> float | None:
    """None for `max`, -1, a missing file."""
    if not quota.isdecimal() or not period.isdecimal() or int(period) == 0:
        return None
    return int(quota) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""
