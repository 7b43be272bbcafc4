"""Lines go through a ring whole and in order, or are dropped and counted; a dead writer leaves none torn."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.errors import SegmentError
from ratelimitd.segment.memory import Segment
from ratelimitd.segment.ring import Ring
from tests.servers import wait_until

HEADER = 64
SIZE = 256

# A process that writes numbered lines of many lengths until it is killed, and takes up the number it finds.
WRITER = """
import sys
from ratelimitd.segment.memory import Segment
ring = Segment.attach(int(sys.argv[1])).ring(2)
number = int(sys.argv[2])
while True:
    if ring.append(b"%d %s\\n" % (number, b"x" * (number * 7919 % 1500))):
        number += 1
"""


def new_ring(size: int = SIZE) -> Ring:
    return Ring(mmap.mmap(-1, 4096 * (1 + size // 4096) + HEADER), 0, size)


lines = st.binary(max_size=SIZE + 20).map(lambda text: text.replace(b"\n", b"") + b"\n")
steps = st.lists(st.one_of(lines, st.integers(0, SIZE + 20)), max_size=60)


@given(steps)
def test_a_ring_is_a_queue_of_lines(steps: list[bytes | int]) -> None:
    """Whatever is written and read in whatever order: what was taken in comes out, whole and in order."""
    ring, waiting, dropped = new_ring(), deque[bytes](), 0
    for step in steps:
        if isinstance(step, bytes):
            fits = sum(map(len, waiting)) + len(step) <= SIZE
            assert ring.append(step) == fits
            waiting.extend([step] if fits else [])
            dropped += not fits
        else:
            taken = ring.take(step)
            expected = b""
            while waiting and (not expected or len(expected) + len(waiting[0]) <= step):
                expected += waiting.popleft()
            assert taken == expected
        assert ring.filled == sum(map(len, waiting))
        assert ring.dropped == dropped


def test_a_ring_must_fit_and_be_a_power_of_two() -> None:
    memory = mmap.mmap(-1, 4096)
    for offset, size in ((0, 4096), (64, 1000), (8, 1024), (0, 32)):
        with pytest.raises(SegmentError):
            Ring(memory, offset, size)


def test_the_rings_of_a_segment_are_apart() -> None:
    segment = Segment.create(entries=100, pages=4)
    rings = [segment.ring(index) for index in range(4)]
    for index, ring in enumerate(rings):
        ring.append(b"%d\n" % index)
    assert [ring.take(100) for ring in rings] == [b"0\n", b"1\n", b"2\n", b"3\n"]
    with pytest.raises(SegmentError, match="ring 4"):
        segment.ring(4)


def numbered(data: bytes) -> Iterator[int]:
    """The numbers of whole lines; fails on a torn one."""
    for line in data.splitlines(keepends=True):
        number, _, text = line.partition(b" ")
        assert text == b"x" * (int(number) * 7919 % 1500) + b"\n", line[:40]
        yield int(number)


def test_a_writer_killed_at_any_moment_leaves_whole_lines_and_the_next_goes_on() -> None:
    segment = Segment.create(entries=100, pages=3)
    ring, following = segment.ring(2), 0
    for delay in range(12):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(segment.fd), str(following)], pass_fds=[segment.fd]
        )
        wait_until(lambda: ring.filled > 0, "the writer writes")
        for _ in range(40 * delay):
            for number in numbered(ring.take(65_536)):
                assert number == following
                following += 1
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        for number in numbered(ring.take(1 << 30)):
            assert number == following
            following += 1
        assert ring.filled == 0
    assert following > 10_000, "more than the ring holds went through it"


def test_a_reader_that_stands_still_costs_lines_and_nothing_else() -> None:
    segment = Segment.create(entries=100, pages=3)
    ring = segment.ring(2)
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(segment.fd), "0"], pass_fds=[segment.fd])
    wait_until(lambda: ring.dropped > 1_000, "the ring is full and the writer goes on")
    writer.kill()
    writer.wait()
    numbers = list(numbered(ring.take(1 << 30)))
    assert numbers == list(range(len(numbers)))
