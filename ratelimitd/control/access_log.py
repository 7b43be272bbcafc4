"""Writes the lines of the access log from the workers' rings to standard output, a file or journald.

A thread does it, with blocking writes of whole lines, so that a reader who stands still holds up nobody: the
rings fill, the workers drop lines and count them. Standard output is never made non-blocking, since whoever
gave it to us shares it. A file is opened for appending, and again when `reopen` says so (after a rename).
"""

from __future__ import annotations

import logging
import os
import select
import signal
import stat
import sys
import threading
from typing import TYPE_CHECKING, Final, Protocol

from ratelimitd.control.journald import Journald
from ratelimitd.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ratelimitd.config.model import Log
    from ratelimitd.segment.ring import Ring

logger = logging.getLogger(__name__)

EVERY_S: Final = 0.05
CLOSE_S: Final = 2.0
_MOST_AT_ONCE: Final = 128 * 1024
_MOST_OF_ONE_RING: Final = 1024 * 1024
_STDOUT: Final = 1


class Destination(Protocol):
    """Where lines go. `name` is as in the configuration; `is_file`: it can be opened anew."""

    name: str
    is_file: bool
    most_at_once: int

    def write(self, lines: bytes) -> tuple[int, str]:
        """Write whole lines; how many of them are lost, and why."""

    def close(self) -> None: ...


def open_destination(name: str) -> Destination:
    """StartError when it cannot be opened."""
    return Journald() if name == "journald" else Stream(name)


class Stream:
    """Standard output or a file. StartError when it cannot be opened."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_file = name != "stdout"
        self._fd = _open_file(name) if self.is_file else _standard_output()
        # What a pipe or a terminal takes at once is not torn by others that write there too.
        is_regular = stat.S_ISREG(os.fstat(self._fd).st_mode)
        self.most_at_once = _MOST_AT_ONCE if is_regular else select.PIPE_BUF
        self._torn = False

    def write(self, lines: bytes) -> tuple[int, str]:
        """Write it all, however long that takes."""
        try:
            self._write(lines)
        except OSError as error:
            return lines.count(b"\n"), error.strerror or str(error)
        return 0, ""

    def _write(self, lines: bytes) -> None:
        left = memoryview(b"\n" + lines if self._torn else lines)
        try:
            while left:
                written = self._write_some(left)
                left = left[written:]
                self._torn = self._torn or written > 0
        finally:
            # What follows a line that could only be written in part starts on a line of its own.
            self._torn = self._torn and bool(left)

    def _write_some(self, data: memoryview) -> int:
        try:
            return os.write(self._fd, data)
        except BlockingIOError:  # somebody else has made it non-blocking
            poll = select.poll()
            poll.register(self._fd, select.POLLOUT)
            poll.poll()
            return 0

    def close(self) -> None:
        if self.is_file:
            os.close(self._fd)


class AccessLogWriter:
    """Empties `rings` to where `log` says. Every method may be called from any thread."""

    def __init__(self, rings: Sequence[Ring], log: Log) -> None:
        self._rings = rings
        self._destination = None if log.access == "none" else open_destination(log.destination)
        self._lock = threading.Lock()
        self._next: Destination | None = None
        self._reopen = False
        self._closing = False
        self._failing = False
        self._failed = 0
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines that nobody will read: no room in a ring, or a write that failed."""
        return self._failed + sum(ring.dropped for ring in self._rings)

    def prepare(self, log: Log) -> Destination | None:
        """Open where `log` wants lines to go, unless they go there already. StartError when that fails."""
        current = self._next or self._destination
        if log.access == "none" or (current is not None and current.name == log.destination):
            return None
        return open_destination(log.destination)

    def use(self, destination: Destination) -> None:
        """Write there from now on."""
        with self._lock:
            if self._next is not None:
                self._next.close()
            self._next = destination
        self._wake.set()

    def reopen(self) -> None:
        """Open the file anew: it was renamed."""
        self._reopen = True
        self._wake.set()

    def close(self) -> None:
        """Write what is in the rings, unless the reader stands still. No worker may write any more."""
        self._closing = True
        self._wake.set()
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            left = sum(ring.filled for ring in self._rings)
            logger.warning("access log: its reader stands still; the last %d bytes are lost", left)

    def _run(self) -> None:
        # Signals are for the main thread: here they would only interrupt writes.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            closing = self._closing
            self._change_destination()
            more = [self._empty(ring) for ring in self._rings]
            if any(more):
                continue
            if closing:
                break
            self._wake.wait(EVERY_S)
            self._wake.clear()
        if self._destination is not None:
            self._destination.close()

    def _empty(self, ring: Ring) -> bool:
        """Write what is in a ring, or a good deal of it; whether more is to be expected at once."""
        taken = 0
        most = _MOST_AT_ONCE if self._destination is None else self._destination.most_at_once
        while taken < _MOST_OF_ONE_RING:
            lines = ring.take(most)
            if not lines:
                return False
            self._write(lines)
            taken += len(lines)
        return True

    def _write(self, lines: bytes) -> None:
        destination = self._destination
        if destination is None:  # the last ones of a log that was switched on and off again
            self._failed += lines.count(b"\n")
            return
        lost, why = destination.write(lines)
        self._failed += lost
        if lost and not self._failing:
            logger.error(
                "access log: cannot write to %s: %s; lines are dropped and counted until it works again",
                *(destination.name, why),
            )
        elif self._failing and not lost:
            logger.info("access log: %s can be written again", destination.name)
        self._failing = bool(lost)

    def _change_destination(self) -> None:
        with self._lock:
            following, self._next = self._next, None
        if self._reopen:
            self._reopen = False
            following = following or self._reopened()
        if following is not None:
            if self._destination is not None:
                self._destination.close()
            self._destination = following
            self._failing = False

    def _reopened(self) -> Destination | None:
        if self._destination is None or not self._destination.is_file:
            logger.info("access log: there is no file to reopen")
            return None
        try:
            following = open_destination(self._destination.name)
        except StartError as error:
            logger.error("%s; the old file stays in use", error)
            return None
        logger.info("access log: reopened %s", following.name)
        return following


def _open_file(path: str) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY
    try:
        # Without O_NONBLOCK the open of a pipe that nobody reads would wait for a reader.
        fd = os.open(path, flags | os.O_NONBLOCK, 0o640)
    except OSError as error:
        raise StartError(
            f"access log: cannot open {path}: {error.strerror}: name a file that the daemon may write "
            "(log.destination), or stdout"
        ) from None
    os.set_blocking(fd, True)
    return fd


def _standard_output() -> int:
    if sys.__stdout__ is None:  # closed when we were started: the number may be anything by now
        raise StartError(
            "access log: standard output is closed: name a file (log.destination), or log.access: none"
        )
    return _STDOUT
