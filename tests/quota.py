"""A part of a CPU for processes that run already: a cgroup with a quota, v1 or v2, gone afterwards."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

_ROOT: Final = Path("/sys/fs/cgroup")


@contextlib.contextmanager
def part_of_a_cpu(share: float, pid: int, period_us: int = 100_000) -> Iterator[None]:
    """Holds `pid` to `share` of one CPU, in the kernel's usual periods; skips where that cannot be done."""
    is_v1 = (_ROOT / "cpu/cpu.cfs_quota_us").exists()
    root = _ROOT / "cpu" if is_v1 else _ROOT
    group = root / f"ratelimitd-test-{os.getpid()}"
    quota_us = round(share * period_us)
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"cannot make a cgroup with a quota: {error}")
    try:
        if is_v1:
            (group / "cpu.cfs_period_us").write_text(str(period_us))
            (group / "cpu.cfs_quota_us").write_text(str(quota_us))
        else:
            (group / "cpu.max").write_text(f"{quota_us} {period_us}")
        (group / "cgroup.procs").write_text(str(pid))
        yield
    except FileNotFoundError as error:
        pytest.skip(f"this cgroup has no quota: {error}")
    finally:
        with contextlib.suppress(ProcessLookupError):
            (root / "cgroup.procs").write_text(str(pid))
        group.rmdir()
