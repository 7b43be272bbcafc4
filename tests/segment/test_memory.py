"""A segment is read whole or refused with a reason."""

import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from ratelimitd.errors import SegmentError
from ratelimitd.segment import layout
from ratelimitd.segment.memory import Segment, boottime_us


def test_attached_side_sees_the_same_segment() -> None:
    made = Segment.create(entries=10_000, pages=4)
    seen = Segment.attach(made.fd)
    assert (seen.secret, seen.table, seen.wall_offset_us) == (made.secret, made.table, made.wall_offset_us)
    made.memory[made.table.offset] = 7
    assert seen.memory[seen.table.offset] == 7
    assert [seen.page_offset(index) for index in range(4)] == [made.page_offset(index) for index in range(4)]


def test_wall_clock_is_the_boot_clock_plus_a_constant() -> None:
    segment = Segment.create(entries=100, pages=2)
    assert abs(boottime_us() + segment.wall_offset_us - time.time_ns() // 1000) < 1_000_000


def test_secrets_differ() -> None:
    assert Segment.create(100, 2).secret != Segment.create(100, 2).secret


def test_a_fresh_program_attaches_by_descriptor() -> None:
    segment = Segment.create(entries=1000, pages=3)
    slot = segment.registry.series("ratelimitd_bytes_total", ("in",))
    program = (
        "import sys; from ratelimitd.segment.memory import Segment\n"
        "segment = Segment.attach(int(sys.argv[1]))\n"
        "slot = segment.registry.series('ratelimitd_bytes_total', ('in',))\n"
        "segment.page(2).slots[slot] += 41\n"
    )
    subprocess.run([sys.executable, "-c", program, str(segment.fd)], pass_fds=[segment.fd], check=True)
    assert segment.page(2).slots[slot] == 41


def _other_magic(segment: Segment) -> None:
    segment.memory[0:8] = b"somebody"


def _other_layout(segment: Segment) -> None:
    struct.pack_into("=Q", segment.memory, layout.HEADER_VERSION, layout.LAYOUT_VERSION + 1)


def _other_boot(segment: Segment) -> None:
    segment.memory[layout.HEADER_BOOT_ID] ^= 1


def _other_size(segment: Segment) -> None:
    os.ftruncate(segment.fd, os.fstat(segment.fd).st_size + 4096)


def _other_geometry(segment: Segment) -> None:
    struct.pack_into("=Q", segment.memory, layout.HEADER_ENTRIES, 2**40)


def _too_small(segment: Segment) -> None:
    os.ftruncate(segment.fd, 100)


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (_other_magic, "not a segment"),
        (_other_layout, "has layout"),
        (_other_boot, "booted"),
        (_other_size, "damaged"),
        (_other_geometry, "damaged"),
        (_too_small, "too small"),
    ],
)
def test_what_cannot_be_read_is_refused(damage: Callable[[Segment], None], word: str) -> None:
    segment = Segment.create(entries=100, pages=2)
    damage(segment)
    with pytest.raises(SegmentError, match=word):
        Segment.attach(segment.fd)


def test_a_page_outside_is_refused() -> None:
    segment = Segment.create(entries=100, pages=2)
    with pytest.raises(SegmentError, match="page 2"):
        segment.page_offset(2)
