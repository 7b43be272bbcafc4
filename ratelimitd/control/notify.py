"""systemd's notification protocol: what state the service is in, and that its loop still turns.

Without `$NOTIFY_SOCKET` nothing is sent. A message that systemd does not take is lost, never waited for:
telling about the service must not stop the service.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_LONGEST_STATUS: Final = 500


class Notifier:
    """Sends to the socket that `environ` names."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]
        self.watchdog_s = _watchdog_s(environ) if self._address else None
        self.serving = ""  # what it says while all is well

    def starting(self, status: str) -> None:
        """The service is not ready yet; `status` says what it is waiting for."""
        self._send(f"STATUS={_line(status)}")

    def ready(self, status: str) -> None:
        """Every worker accepts connections."""
        self.serving = status
        self._send(f"READY=1\nSTATUS={_line(status)}")

    def reloading(self) -> None:
        """Followed by `reloaded`; systemd wants the clock to tell two reloads apart."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}\nSTATUS=reloading")

    def reloaded(self, refused: str = "") -> None:
        """Ready again, with the new configuration or, `refused` saying why, with the old one."""
        suffix = f"; the last reload was refused: {refused}" if refused else ""
        self._send(f"READY=1\nSTATUS={_line(self.serving + suffix)}")

    def stopping(self, status: str, within_us: int) -> None:
        """The service ends, which may take up to `within_us`, whatever TimeoutStopSec= says."""
        self._send(f"STOPPING=1\nSTATUS={_line(status)}\nEXTEND_TIMEOUT_USEC={within_us}")

    def alive(self) -> None:
        """Call every half of `watchdog_s`, from the event loop: a loop that is stuck must not say this."""
        self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto(message.encode(), self._address)


def _line(text: str) -> str:
    """A message has one assignment a line, and a datagram may not grow with what an operator wrote."""
    return " | ".join(text.splitlines())[:_LONGEST_STATUS]


def _watchdog_s(environ: Mapping[str, str]) -> float | None:
    """How often systemd wants to hear from this process; None: not at all."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if microseconds.isdecimal() and int(microseconds) > 0 else None
