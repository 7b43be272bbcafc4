"""How much always waits in the worker's loop, in CPU time: messages to itself, and what comes before them.

A message is a descriptor that becomes readable and waits its turn behind all sockets that are ready. The CPU
time until it comes is what those cost, whoever else had the CPU meanwhile; while much is ready the next one
is sent at once. The least of 0.2 s is what always waits. Lag does not say that: a worker that
a CPU quota stops is late after each pause, and what came meanwhile is a burst. Nor does a turn of the loop:
libuv does not end one while more than 1,024 sockets are ready.
"""

from __future__ import annotations

import os
import time
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio

_TICKS: Final = 4
_MUCH_NS: Final = 2_000_000


class Backlog:
    """`measure` is called at each tick; `least_us` is what was found over the last of them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._sent_ns = 0  # of this thread's CPU time; 0: nothing is under way
        self._found: int | None = None  # the least since the last tick
        self._ticks: deque[int] = deque([0] * _TICKS, maxlen=_TICKS)
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        loop.add_reader(self._fd, self._came)

    @property
    def least_us(self) -> int:
        return min(self._ticks) // 1000

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def measure(self) -> None:
        if self._found is not None:
            self._ticks.append(self._found)
            self._found = None
        if not self._sent_ns:
            self._send()

    def _send(self) -> None:
        self._sent_ns = time.thread_time_ns()
        os.eventfd_write(self._fd, 1)

    def _came(self) -> None:
        os.eventfd_read(self._fd)
        took_ns, self._sent_ns = time.thread_time_ns() - self._sent_ns, 0
        self._found = took_ns if self._found is None else min(self._found, took_ns)
        if took_ns > _MUCH_NS:
            self._send()
