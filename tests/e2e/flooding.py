"""A program: connections that send the same bytes again and again, as fast as they are taken.

`python -m tests.e2e.flooding PORT CONNECTIONS FIRST AGAIN`: FIRST once on each connection, then AGAIN for
ever, both in hex; what is answered is thrown away. It ends when no connection is left.
"""

from __future__ import annotations

import contextlib
import resource
import select
import socket
import struct
import sys
from typing import Final

LEAST_SENT: Final = 1 << 19


class Flood:
    """One connection that never stops sending."""

    def __init__(self, port: int, first: bytes, again: bytes) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # ends at once
        self.sock.sendall(first)
        self.sock.setblocking(False)
        self._data = memoryview(again)
        self._at = 0

    def go_on(self, events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            if events & select.EPOLLIN and not self.sock.recv(1 << 20):
                raise ConnectionAbortedError
            if events & select.EPOLLOUT:
                self._at = (self._at + self.sock.send(self._data[self._at :])) % len(self._data)


def main() -> None:
    port, connections = int(sys.argv[1]), int(sys.argv[2])
    first, again = (bytes.fromhex(text) for text in sys.argv[3:5])
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    floods = [Flood(port, first, again * (LEAST_SENT // len(again) + 1)) for _ in range(connections)]
    by_fd = {flood.sock.fileno(): flood for flood in floods}
    ready = select.epoll()
    for fd in by_fd:
        ready.register(fd, select.EPOLLIN | select.EPOLLOUT)
    while by_fd:
        for fd, events in ready.poll():
            try:
                by_fd[fd].go_on(events)
            except OSError:
                ready.unregister(fd)
                del by_fd[fd]


if __name__ == "__main__":
    main()
