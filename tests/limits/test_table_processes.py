"""Four processes on one table: killed and stopped at random, no limit is exceeded and nothing stays locked.

The processes run hammer.c, which starts in a millisecond, so that many can be killed. Afterwards the exact
log of all of them is judged, each stripe must decide once more, and the table must be whole.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import pytest

from ratelimitd.limits.table import Request, Table
from tests.limits.model import worst
from tests.limits.tables import HEADER_SIZE, build

STRIPES, BUCKETS = 16, 2
WINDOWS_US, LIMITS = (20_000, 100_000, 500_000, 1_000_000), (2, 100, 1_000)  # as in hammer.c
RECORDS = 2_000_000
LOG_HEADER = 64


class Hammers:
    """Four processes, their table and their log."""

    def __init__(self, seed: int, wait_us: int, *, pauses: bool) -> None:
        self.random = random.Random(seed)
        self._table_fd = os.memfd_create("table")
        self._log_fd = os.memfd_create("log")
        os.ftruncate(self._table_fd, HEADER_SIZE + STRIPES * (64 + BUCKETS * 1088))
        os.ftruncate(self._log_fd, LOG_HEADER + RECORDS * 16)
        self.table = Table(mmap.mmap(self._table_fd, 0), HEADER_SIZE, STRIPES, BUCKETS)
        self.table.initialise()
        self._log = mmap.mmap(self._log_fd, 0)
        self._log[16:24] = RECORDS.to_bytes(8, "little")
        self._flags = [str(wait_us), str(int(pauses))]
        self.processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        for _ in range(4):
            self.spawn()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        os.close(self._table_fd)
        os.close(self._log_fd)

    def spawn(self) -> None:
        seed = self.random.randrange(1 << 31)
        numbers = (self._table_fd, self._log_fd, STRIPES, BUCKETS, seed)
        command = [str(build("hammer.c")), *map(str, numbers), *self._flags]
        self.processes.append(subprocess.Popen(command, pass_fds=(self._table_fd, self._log_fd)))

    def kill_one(self) -> None:
        victim = self.processes.pop(self.random.randrange(4))
        victim.kill()
        victim.wait()
        self.spawn()

    def stop_one(self) -> None:
        victim = self.random.choice(self.processes)
        victim.send_signal(signal.SIGSTOP)
        time.sleep(self.random.choice((0.0005, 0.005, 0.03, 0.15)))
        victim.send_signal(signal.SIGCONT)

    def finish(self) -> None:
        self._log[0:8] = (1).to_bytes(8, "little")
        for process in self.processes:
            assert process.wait(timeout=10) == 0

    def timeouts(self) -> int:
        return int(struct.unpack_from("<Q", self._log, 32)[0])

    def records(self) -> Iterator[tuple[int, int]]:
        """(instant, number of the key) of what was admitted; a record of the dead may be missing."""
        used = struct.unpack_from("<Q", self._log, 8)[0]
        assert used < RECORDS
        for at_us, key in struct.iter_unpack("<QQ", self._log[LOG_HEADER : LOG_HEADER + 16 * used]):
            if key:
                yield at_us, key - 1

    def judge(self) -> int:
        """No limit exceeded, no stripe locked, nothing torn; how many charges were admitted."""
        log: dict[int, list[tuple[int, int]]] = {}
        for at_us, key in self.records():
            log.setdefault(key, []).append((at_us, 1))
        over = {key: worst(log[key], WINDOWS_US[key % 4]) for key in log}
        assert {key: most for key, most in over.items() if most > LIMITS[key % 3]} == {}
        now_us = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000
        for stripe in range(STRIPES):
            assert self.table.decide([Request(1 << 40 | stripe, 1_000, 1)], now_us).verdict == "admitted"
        assert self.table.verify() == []
        assert sorted(log) == list(range(12))
        return sum(map(len, log.values()))


def torment(seed: int, seconds: float) -> None:
    with Hammers(seed, wait_us=10_000, pauses=True) as hammers:
        kills = 0
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if hammers.random.random() < 0.6:
                hammers.kill_one()
                kills += 1
            else:
                hammers.stop_one()
            time.sleep(hammers.random.random() * 0.02)
        hammers.finish()
        admitted = hammers.judge()
        assert kills > 4 * seconds
        assert admitted > 1_000 * seconds
        assert hammers.table.counters().dead_owners > 0


def run_in_peace(seed: int, seconds: float) -> None:
    """Locks taken in one order never wait for one another: with a generous bound no wait passes it."""
    with Hammers(seed, wait_us=200_000, pauses=False) as hammers:
        time.sleep(seconds)
        hammers.finish()
        assert hammers.judge() > 1_000 * seconds
        assert hammers.timeouts() == 0
        assert hammers.table.counters()[4:] == (0, 0)


@pytest.mark.timing
def test_processes_that_are_killed_and_stopped_exceed_no_limit() -> None:
    torment(1, 4)


@pytest.mark.timing
def test_processes_in_peace_never_wait_for_long() -> None:
    run_in_peace(2, 1.5)


@pytest.mark.slow
@pytest.mark.timing
@pytest.mark.parametrize("seed", range(3, 7))
def test_for_longer(seed: int) -> None:
    torment(seed, 20)
    run_in_peace(seed, 5)
