"""What the kernel tells of CPU: its own files, files like its own, and files that are not there."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ratelimitd.control.signals import CpuTime, Stall, cpu_time, throttled_us


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_process_that_computes_wants_its_cpu() -> None:
    before = cpu_time(os.getpid())
    start_ns = time.thread_time_ns()
    while time.thread_time_ns() - start_ns < 30_000_000:
        pass
    after = cpu_time(os.getpid())
    assert before is not None
    assert after is not None
    assert after.ran_ns - before.ran_ns > 20_000_000  # the kernel closes its books at ticks


@pytest.mark.parametrize("text", ["", "rubbish", "12", "12 -3 4", "12 x 4"])
def test_what_is_no_schedstat_is_not_known(tmp_path: Path, text: str) -> None:
    assert cpu_time(7, tmp_path) is None
    write(tmp_path / "7/schedstat", text)
    assert cpu_time(7, tmp_path) is None


def test_run_and_wait_are_told_apart(tmp_path: Path) -> None:
    write(tmp_path / "7/schedstat", "1000 234 5\n")
    assert cpu_time(7, tmp_path) == CpuTime(1000, 234)


@pytest.mark.parametrize(
    ("files", "membership", "expected_us"),
    [
        ({}, "0::/app\n", None),
        ({"app/cpu.stat": "usage_usec 5\nthrottled_usec 70\n"}, "0::/app\n", 70),
        ({"app/cpu.stat": "usage_usec 5\n"}, "0::/app\n", None),
        (
            {"pod/cpu.stat": "throttled_usec 30\n", "pod/app/cpu.stat": "throttled_usec 70\n"},
            "0::/pod/app\n",
            100,
        ),
        ({"cpu/app/cpu.stat": "nr_throttled 1\nthrottled_time 70999\n"}, "4:cpu,cpuacct:/app\n", 70),
        ({"memory/app/cpu.stat": "throttled_time 70999\n"}, "4:memory:/app\n", None),
        ({"app/cpu.stat": "throttled_usec many\n"}, "0::/app\n", None),
    ],
)
def test_throttling(tmp_path: Path, files: dict[str, str], membership: str, expected_us: int | None) -> None:
    for name, text in files.items():
        write(tmp_path / "cgroup" / name, text)
    write(tmp_path / "proc/7/cgroup", membership)
    assert throttled_us(7, tmp_path / "proc", tmp_path / "cgroup") == expected_us
    assert throttled_us(8, tmp_path / "proc", tmp_path / "cgroup") is None


SOME = "some avg10=1.00 avg60=0.00 avg300=0.00 total={}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=9\n"


def test_stall_is_the_cgroups_own_else_the_machines(tmp_path: Path) -> None:
    stall = Stall(tmp_path / "proc", tmp_path / "cgroup", "0::/app\n")
    assert stall.stalled_us() is None
    write(tmp_path / "proc/pressure/cpu", SOME.format(100))
    assert stall.stalled_us() == 100
    write(tmp_path / "cgroup/app/cpu.pressure", SOME.format(7))
    assert stall.stalled_us() == 7
    write(tmp_path / "cgroup/app/cpu.pressure", "full total=5\nsome nothing\n")
    assert stall.stalled_us() == 100
