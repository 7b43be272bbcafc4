"""What happened to the daemon, for the timeline afterwards: starts, reloads, lost workers, shedding, drains.

The last 1,000 events are in memory. With a path each is also a JSON line of a file, which is written by a
thread of its own: a disk that stalls delays no sample and no heartbeat, and events that pile up behind it are
dropped and counted. Lines older than `keep` go at the start and once a day: a new file takes its place. One
daemon writes into a file: a second one that is started by mistake leaves no word in the journal of the first.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import queue
import tempfile
import threading
import time
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from ratelimitd.control.answers import Event
from ratelimitd.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ratelimitd.config import model


class Note(Protocol):
    """`Journal.note`, for those who tell what happens to them."""

    def __call__(self, event: str, message: str, **details: Any) -> None: ...


logger = logging.getLogger(__name__)

REMEMBERED: Final = 1_000
_WAITING: Final = 1_000
_DAY_MS: Final = 86_400_000
_MODE: Final = 0o640
_CLOSE_S: Final = 2.0


def rfc3339(wall_us: int) -> str:
    """An instant in UTC, with its microseconds: texts compare as the instants do."""
    return datetime.fromtimestamp(wall_us // 1_000_000, UTC).strftime(
        f"%Y-%m-%dT%H:%M:%S.{wall_us % 1_000_000:06d}Z"
    )


class Journal:
    """The events since the start and, from the file, those before it."""

    def __init__(self, settings: model.Journal) -> None:
        self._events: deque[Event] = deque(maxlen=REMEMBERED)
        self._last_us = 0
        self._file = _File(Path(settings.path), settings.keep_ms) if settings.path else None

    def open(self) -> None:
        """Begin with what the file holds; StartError when it cannot be used."""
        if self._file is not None:
            self._events.extend(self._file.open(time.time_ns() // 1_000_000))

    def note(self, event: str, message: str, **details: Any) -> None:
        """Keep an event. `event` is a word for scripts, `message` a sentence; never waits for a disk."""
        self._last_us = max(self._last_us + 1, time.time_ns() // 1000)
        noted = Event(rfc3339(self._last_us), event, message, details)
        self._events.append(noted)
        if self._file is not None:
            self._file.append(noted)

    def since(self, time: str) -> tuple[Event, ...]:
        """The events that are remembered and later than `time`, as an event's own; all for an empty one."""
        return tuple(event for event in self._events if event.time > time)

    @property
    def dropped(self) -> int:
        return 0 if self._file is None else self._file.dropped

    @property
    def place(self) -> str:
        return "memory" if self._file is None else str(self._file.path)

    def close(self) -> None:
        """Wait, for a bounded time, until what was noted is written."""
        if self._file is not None:
            self._file.close()


class _File:
    """The file and the thread that writes it."""

    def __init__(self, path: Path, keep_ms: int) -> None:
        self.path: Final = path
        self.dropped = 0
        self._keep_ms: Final = keep_ms
        self._waiting: queue.Queue[Event | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._write_all, name="journal", daemon=True)
        self._complained = False
        self._pruned_ms = 0
        self._fd = -1

    def open(self, now_ms: int) -> list[Event]:
        try:
            self._fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _MODE)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._prune(now_ms)
            _end_last_line(self._fd)
            remembered = deque(_events(self.path), maxlen=REMEMBERED)
        except BlockingIOError:
            raise StartError(
                f"the journal {self.path} is written by another ratelimitd, which runs already (`ratelimitd "
                "status` finds it): end that one, or name another journal.path for this one"
            ) from None
        except OSError as error:
            raise StartError(
                f"cannot write the journal {self.path}: {error.strerror}; make its directory and let this "
                "user write there (StateDirectory= of the service), or name another journal.path"
            ) from None
        self._thread.start()
        return list(remembered)

    def append(self, event: Event) -> None:
        try:
            self._waiting.put_nowait(event)
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=_CLOSE_S)
        self._thread.join(_CLOSE_S)
        if not self._thread.is_alive():  # else the disk still stalls, and the file is the thread's
            os.close(self._fd)

    def _write_all(self) -> None:
        """What the thread does: one line after the other."""
        while (event := self._waiting.get()) is not None:
            try:
                if time.time_ns() // 1_000_000 - self._pruned_ms > _DAY_MS:
                    self._prune(time.time_ns() // 1_000_000)
                self._write(msgspec.json.encode(event) + b"\n")
                self._complained = False
            except OSError as error:
                self.dropped += 1
                if not self._complained:
                    logger.error("the journal %s is not written: %s", self.path, error.strerror)
                self._complained = True

    def _write(self, line: bytes) -> None:
        """All of a line, or an error: what a full disk took of it is ended by the next one."""
        written = os.write(self._fd, line)
        if written < len(line):
            os.write(self._fd, b"\n")
            raise OSError(0, "the disk is full")

    def _prune(self, now_ms: int) -> None:
        """Write the file anew without its old lines, if it has any; complete or not at all."""
        self._pruned_ms = now_ms
        if not self.path.exists():
            return
        oldest = rfc3339(max(0, now_ms - self._keep_ms) * 1000)
        with self.path.open("rb") as file:
            first = next(_decoded(file), None)
        if first is None or first.time >= oldest:
            return
        with tempfile.NamedTemporaryFile(
            dir=self.path.parent, prefix=f".{self.path.name}-", delete=False
        ) as kept:
            try:
                os.fchmod(kept.fileno(), self.path.stat().st_mode & 0o777)
                for event in _events(self.path):
                    if event.time >= oldest:
                        kept.write(msgspec.json.encode(event) + b"\n")
                kept.flush()
                os.fsync(kept.fileno())
                Path(kept.name).replace(self.path)
            except OSError:
                Path(kept.name).unlink(missing_ok=True)
                raise
        fresh = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(fresh, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.dup2(fresh, self._fd, inheritable=False)
        os.close(fresh)


def _events(path: Path) -> Iterator[Event]:
    with path.open("rb") as file:
        yield from _decoded(file)


def _decoded(lines: Iterable[bytes]) -> Iterator[Event]:
    """The events among `lines`; what is none (a line that a crash cut off) is passed over."""
    decoder = msgspec.json.Decoder(Event)
    for line in lines:
        with contextlib.suppress(msgspec.DecodeError):
            yield decoder.decode(line)


def _end_last_line(fd: int) -> None:
    """After a crash in the middle of a line the next one must not be glued to it."""
    size = os.fstat(fd).st_size
    if size and os.pread(fd, 1, size - 1) != b"\n":
        os.write(fd, b"\n")
