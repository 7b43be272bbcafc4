"""Lines of the access log as entries of systemd-journald, over its own socket.

The line is the MESSAGE. A JSON line also gives fields to look entries up by, such as
`journalctl RATELIMITD_OUTCOME=shed`. A journald that takes nothing for a moment is waited for, then lines are
lost until it takes one again. Lines too long for a datagram are passed as a sealed file in memory.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import time
from typing import TYPE_CHECKING, Final

import msgspec

from ratelimitd.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Iterator

SOCKET: Final = "/run/systemd/journal/socket"
PATIENCE_S: Final = 1.0
_ALWAYS: Final = b"PRIORITY=6\nSYSLOG_IDENTIFIER=ratelimitd\n"
_GONE: Final = {errno.ECONNREFUSED, errno.ECONNRESET, errno.ENOTCONN, errno.ENOENT}  # it was started anew
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


class _Line(msgspec.Struct):
    """What of a JSON line becomes fields."""

    client: str = ""
    method: str = ""
    status: int = 0
    outcome: str = ""
    limit: str | None = ""
    upstream: str | None = ""
    server: str | None = ""
    request_id: str | None = ""


class Journald:
    """A connection to journald. StartError when there is none here."""

    name = "journald"
    is_file = False
    most_at_once = 64 * 1024

    def __init__(self, path: str = "") -> None:
        self._path = path or SOCKET
        self._decoder = msgspec.json.Decoder(_Line)
        self._patience_s = PATIENCE_S
        try:
            self._socket = self._connected()
        except OSError as error:
            raise StartError(
                f"access log: journald cannot be reached at {self._path}: {error.strerror}: name a file, or "
                "stdout (log.destination)"
            ) from None

    def write(self, lines: bytes) -> tuple[int, str]:
        """How many of the lines are lost, and why."""
        lost, why = 0, ""
        for line in lines.splitlines():
            try:
                self._send(self._entry(line))
                self._patience_s = PATIENCE_S
            except OSError as error:
                lost, why = lost + 1, error.strerror or str(error)
                self._patience_s = 0  # not waited for again before it takes something
        return lost, why

    def close(self) -> None:
        self._socket.close()

    def _connected(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            sock.connect(self._path)
        except OSError:
            sock.close()
            raise
        return sock

    def _entry(self, line: bytes) -> bytes:
        return b"MESSAGE=%b\n%b%b" % (line, _ALWAYS, b"".join(self._fields(line)))

    def _fields(self, line: bytes) -> Iterator[bytes]:
        try:
            fields = msgspec.structs.asdict(self._decoder.decode(line))
        except msgspec.DecodeError:
            return  # the combined format has none
        for name, value in fields.items():
            if value and "\n" not in (text := str(value)):
                yield f"RATELIMITD_{name.upper()}={text}\n".encode("utf-8", "replace")

    def _send(self, entry: bytes) -> None:
        try:
            self._patiently(entry)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            fresh = self._connected()
            self._socket.close()
            self._socket = fresh
            self._patiently(entry)

    def _patiently(self, entry: bytes) -> None:
        end_s = time.monotonic() + self._patience_s
        while True:
            try:
                self._send_once(entry)
                return
            except BlockingIOError:
                left_s = end_s - time.monotonic()
                if left_s <= 0:
                    raise OSError(errno.EAGAIN, "it takes nothing") from None
                poll = select.poll()
                poll.register(self._socket, select.POLLOUT)
                poll.poll(left_s * 1000)

    def _send_once(self, entry: bytes) -> None:
        try:
            self._socket.send(entry)
        except OSError as error:
            if error.errno not in {errno.EMSGSIZE, errno.ENOBUFS}:
                raise
            self._send_as_file(entry)

    def _send_as_file(self, entry: bytes) -> None:
        memory = os.memfd_create("ratelimitd-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            with open(memory, "wb", closefd=False) as file:
                file.write(entry)
            fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)
            socket.send_fds(self._socket, [b""], [memory])
        finally:
            os.close(memory)
