"""The order of a running daemon in the hands of a test, while its supervisor stands still."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from ratelimitd.segment.memory import Segment
from ratelimitd.segment.shedding import ShedWords
from tests.daemon import Daemon


@contextlib.contextmanager
def stopped(daemon: Daemon) -> Iterator[ShedWords]:
    """The words of the daemon's segment; the supervisor goes on afterwards."""
    descriptors = Path(f"/proc/{daemon.pid}/fd")
    memory = next(fd for fd in descriptors.iterdir() if "memfd:ratelimitd" in os.readlink(fd))
    segment = Segment.attach(os.open(memory, os.O_RDWR))
    daemon.send(signal.SIGSTOP)
    try:
        yield ShedWords(segment.memory)
    finally:
        daemon.send(signal.SIGCONT)
        segment.close()
