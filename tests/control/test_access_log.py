"""The writer of the access log loses lines only where nothing else is left, counts them, and says so once."""

from __future__ import annotations

import logging
import mmap
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from ratelimitd.config.model import Log
from ratelimitd.control.access_log import AccessLogWriter, Stream
from ratelimitd.errors import StartError
from ratelimitd.segment.ring import Ring
from tests.servers import wait_until


def new_ring() -> Ring:
    return Ring(mmap.mmap(-1, 1 << 17), 0, 1 << 16)


def has_dropped(writer: AccessLogWriter, count: int) -> bool:
    return writer.dropped == count


def test_what_is_in_the_rings_at_the_end_is_written(tmp_path: Path) -> None:
    rings = [new_ring(), new_ring()]
    writer = AccessLogWriter(rings, Log(destination=str(tmp_path / "log")))
    for number in range(500):
        rings[number % 2].append(b"%d\n" % number)
    writer.close()
    lines = (tmp_path / "log").read_text().split()
    assert sorted(map(int, lines)) == list(range(500))
    assert writer.dropped == 0


def test_a_full_disk_costs_lines_that_are_counted_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ring = new_ring()
    with caplog.at_level(logging.INFO, "ratelimitd"):
        writer = AccessLogWriter([ring], Log(destination="/dev/full"))
        for count in (1, 2):
            ring.append(b"lost\n")
            wait_until(partial(has_dropped, writer, count), "counted")
        writer.use(Stream(str(tmp_path / "log")))
        ring.append(b"kept\n")
        writer.close()
    assert (tmp_path / "log").read_text() == "kept\n"
    said = "cannot write to /dev/full: No space left on device; lines are dropped and counted until it works"
    assert [said in record.message for record in caplog.records] == [True]


def test_after_a_torn_line_the_next_one_starts_afresh() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    destination = Stream(f"/proc/self/fd/{writer}")
    destination.write(b"a line that is cut")
    destination._torn = True
    destination.write(b"the next\n")
    assert os.read(reader, 100) == b"a line that is cut\nthe next\n"
    for descriptor in (reader, writer):
        os.close(descriptor)
    destination.close()


def test_a_pipe_that_nobody_reads_is_no_destination(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StartError, match=r"cannot open .*/pipe: "):
        Stream(str(tmp_path / "pipe"))


def test_a_closed_standard_output_is_said_and_never_taken_for_another_file() -> None:
    command = [sys.executable, "-m", "ratelimitd", "run", "--upstream", "http://127.0.0.1:9"]
    command += ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    daemon = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *command], stderr=subprocess.PIPE, timeout=30, check=False
    )
    assert daemon.returncode == 1
    assert b"standard output is closed" in daemon.stderr
