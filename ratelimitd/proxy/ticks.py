"""The worker's clock: a tick every 50 ms, delivered as if it were a client's request.

A timer of the loop will not do: while more than 1,024 sockets are ready at once, libuv goes on with sockets
and leaves its timers waiting, for seconds. A timer of the kernel is a descriptor that becomes readable and
waits its turn among the sockets, so it comes in any surge, and its lateness is what a request waits before
anyone looks at it.
"""

from __future__ import annotations

import ctypes
import os
import struct
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

_TFD_FLAGS: Final = os.O_NONBLOCK | os.O_CLOEXEC  # TFD_NONBLOCK | TFD_CLOEXEC
_TFD_TIMER_ABSTIME: Final = 1
_ITIMERSPEC: Final = struct.Struct("@llll")  # interval, first expiry: seconds and nanoseconds
_COUNT: Final = struct.Struct("=Q")
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


class Ticks:
    """Calls `tick(late_us, count)`: how late this one is, and how many were due since the last."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, tick: Callable[[int, int], None], every_ms: int
    ) -> None:
        self._loop = loop
        self._tick = tick
        self._every_ns = every_ms * 1_000_000
        self._next_ns = time.monotonic_ns() + self._every_ns
        self._fd = _timer(self._next_ns, self._every_ns)
        loop.add_reader(self._fd, self._expired)

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _expired(self) -> None:
        try:
            (count,) = _COUNT.unpack(os.read(self._fd, _COUNT.size))
        except BlockingIOError:
            return
        late_us = max(0, time.monotonic_ns() - self._next_ns) // 1000
        self._next_ns += count * self._every_ns
        self._tick(late_us, count)


def _timer(first_ns: int, every_ns: int) -> int:
    """A descriptor that is readable from `first_ns` (CLOCK_MONOTONIC) on, and again after each `every_ns`."""
    fd: int = _LIBC.timerfd_create(time.CLOCK_MONOTONIC, _TFD_FLAGS)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "cannot make a timer of the kernel")
    spec = _ITIMERSPEC.pack(*divmod(every_ns, 1_000_000_000), *divmod(first_ns, 1_000_000_000))
    if _LIBC.timerfd_settime(fd, _TFD_TIMER_ABSTIME, spec, None) < 0:
        raise OSError(ctypes.get_errno(), "cannot start a timer of the kernel")
    return fd
