"""Quotas of cgroups, v1 and v2, from files like the kernel's."""

import os
from pathlib import Path

import pytest

from ratelimitd.control.cpus import available_cpus, cgroup_quota


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize(
    ("files", "membership", "quota"),
    [
        ({}, "0::/app\n", None),
        ({"app/cpu.max": "max 100000\n"}, "0::/app\n", None),
        ({"app/cpu.max": "150000 100000\n"}, "0::/app\n", 1.5),
        ({"pod/cpu.max": "50000 100000\n", "pod/app/cpu.max": "200000 100000\n"}, "0::/pod/app\n", 0.5),
        (
            {"cpu/app/cpu.cfs_quota_us": "-1", "cpu/app/cpu.cfs_period_us": "100000"},
            "4:cpu,cpuacct:/app\n",
            None,
        ),
        ({"cpu/app/cpu.cfs_quota_us": "300000", "cpu/app/cpu.cfs_period_us": "100000"}, "4:cpu:/app\n", 3.0),
        ({"app/cpu.max": "rubbish"}, "0::/app\nrubbish\n", None),
    ],
)
def test_quota(tmp_path: Path, files: dict[str, str], membership: str, quota: float | None) -> None:
    write(tmp_path, files)
    assert cgroup_quota(tmp_path, membership) == quota


def test_there_is_at_least_one_and_no_more_than_allowed() -> None:
    assert 1 <= available_cpus() <= len(os.sched_getaffinity(0))
