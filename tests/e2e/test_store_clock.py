"""The clock of the store is set back and forth by seconds while a fleet asks it.

`decided` follows the store's clock. What is judged are the true instants: the wall clock of this machine,
from which the store's differs by whole seconds that the test has set. A node learns where the clock stands
from its calls, and the first after a step may tell it too late by as long as it took: at most the deadline.
"""

from __future__ import annotations

import dataclasses
import mmap
import struct
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pytest

from tests.e2e.fleet import assert_answers, assert_quick, assert_within, fleet_of, now_us
from tests.e2e.trial import RATE, Trial, assert_said
from tests.redis_servers import Redis
from tests.servers import Nginx

pytestmark = pytest.mark.slow

SOURCE: Final = Path(__file__).parent.with_name("clock_ahead.c")


class Clock:
    """The wall clock of the programs that are started with `prefix` (clock_ahead.c)."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        library, file = directory / "clock_ahead.so", directory / "ahead"
        command = ["cc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(library), str(SOURCE)]
        subprocess.run(command, check=True)
        file.write_bytes(bytes(8))
        with file.open("r+b") as opened:
            self._ahead_us = mmap.mmap(opened.fileno(), 8)
        self.prefix = ("env", f"LD_PRELOAD={library}", f"CLOCK_AHEAD={file}")

    def set(self, ahead_s: int) -> None:
        """So many seconds before the true time, at once."""
        self._ahead_us[:] = struct.pack("<q", ahead_s * 1_000_000)


def true_us(entry: dict[str, Any], steps_s: tuple[int, ...]) -> int:
    """A line's `time` is that of its request, which may have waited: it tells which step it was, no more."""
    wall_us = datetime.fromisoformat(entry["time"]).timestamp() * 1e6
    ahead_s = min((0, *steps_s), key=lambda step: abs(entry["decided"] - wall_us - step * 1e6))
    return int(entry["decided"] - ahead_s * 1_000_000)


def run(directory: Path, nginx: Nginx, steps_s: tuple[int, ...], most: int) -> float:
    """Under load each step in turn; gives how many exceptions were counted for them."""
    clock = Clock(directory / "clock")
    with Redis(directory / "redis", "redis-7", prefix=clock.prefix) as redis:
        with redis.client() as client, fleet_of(directory, nginx.url, redis.url, [RATE]) as fleet:
            trial = Trial(fleet, seconds=3 + 2.5 * len(steps_s))
            trial.pass_time()
            for ahead_s in steps_s:
                clock.set(ahead_s)
                assert abs(client.time()[0] - now_us() / 1e6 - ahead_s) < 2
                trial.pass_time(2)
            answers = trial.answers()
            assert_answers(answers, 200, 429)
            assert_quick(answers, fleet.deadline_ms)
            judged = dataclasses.replace(RATE, window_s=RATE.window_s - fleet.deadline_ms / 1000)
            assert_within(fleet.admitted(lambda entry: true_us(entry, steps_s)), judged, most)
            for node in fleet.nodes:
                assert node.is_up()
                assert_said(fleet, node.index, len(node.events()))
            return sum(node.exceptions("clock_step") for node in fleet.nodes)


def test_set_back(tmp_path: Path, nginx: Nginx) -> None:
    """The keys' clocks stand still for one call: no window over the limit."""
    run(tmp_path, nginx, (-3, -5), RATE.count)


def test_set_forth(tmp_path: Path, nginx: Nginx) -> None:
    """Windows end early, once for each step, and that is counted."""
    assert run(tmp_path, nginx, (3, 5, 2, 6), 2 * RATE.count) >= 2
