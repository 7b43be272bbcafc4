"""One worker process: started as a fresh program, watched by pidfd, spoken to over its channel.

Never a fork of the supervisor's loop. Signals meant for the supervisor are blocked around the start, so that
one that comes before the worker ignores them waits until it does. When the supervisor is gone, its end of
the channel closes: that is how a worker learns of it, whatever killed the supervisor.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from typing import TYPE_CHECKING, Final

from ratelimitd.proxy.channel import Channel

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from ratelimitd.proxy.orders import Message, Order

SUPERVISOR_SIGNALS: Final = frozenset(
    {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
)
# What systemd told the supervisor about itself is not for its children.
_PRIVATE: Final = (
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
)


class WorkerProcess:
    """A running worker program. `on_exit` is called once, with what `subprocess` calls the return code."""

    def __init__(
        self,
        command: Sequence[str],
        segment_fd: int,
        loop: asyncio.AbstractEventLoop,
        on_report: Callable[[Message], None],
        on_exit: Callable[[int], None],
    ) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process: Final = _spawn(command, theirs.fileno(), segment_fd)
        self.pid: Final = self._process.pid
        self._pidfd: Final = os.pidfd_open(self.pid)
        self._loop: Final = loop
        self._on_exit: Final = on_exit
        self._channel: Final = Channel(ours, loop, lambda message, _: on_report(message), lambda: None)
        loop.add_reader(self._pidfd, self._exited)

    def send(self, order: Order, fds: Sequence[int] = ()) -> None:
        self._channel.send(order, fds)

    def kill(self) -> None:
        """SIGKILL: nothing can hold it off, a stopped process included."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _exited(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._channel.close()
        self._on_exit(self._process.wait())


def exit_text(status: int) -> str:
    """How a process ended, for the log."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"was killed by {name}"


def _spawn(command: Sequence[str], channel_fd: int, segment_fd: int) -> subprocess.Popen[bytes]:
    environ = {name: value for name, value in os.environ.items() if name not in _PRIVATE}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SUPERVISOR_SIGNALS)
    try:
        return subprocess.Popen(
            [*command, "--control", str(channel_fd), "--segment", str(segment_fd)],
            stdin=subprocess.DEVNULL,
            pass_fds=(channel_fd, segment_fd),
            env=environ,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
