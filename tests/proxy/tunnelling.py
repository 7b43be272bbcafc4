"""Both sides of a tunnel in the hands of a test: an upgraded client and the web server behind it."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import Final

from tests.daemon import Daemon
from tests.proxy.recording import Closed, Connection, Recording
from tests.proxy.talking import Client, get
from tests.servers import wait_until

UPGRADE: Final = ("Connection: Upgrade", "Upgrade: websocket")
SWITCHING: Final = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX-Sent: 1\r\n\r\n"
)


def echoing(connection: Connection, _: bytes) -> None:
    """A script that takes up the offer, and sends back all that comes then."""
    connection.send(SWITCHING)
    with contextlib.suppress(OSError):
        while data := connection.sock.recv(1 << 16):
            connection.send(data)
    raise Closed


class Peer:
    """The web server's side of one tunnel; `behind` is sent in one piece with the 101."""

    def __init__(self, upstream: Recording, behind: bytes = b"") -> None:
        self._behind = behind
        self._opened = threading.Event()
        self._finished = threading.Event()
        self._sock: socket.socket
        upstream.script = self._script

    def _script(self, connection: Connection, _: bytes) -> None:
        self._sock = connection.sock
        connection.send(SWITCHING + self._behind)
        self._opened.set()
        assert self._finished.wait(60)
        raise Closed

    @property
    def sock(self) -> socket.socket:
        assert self._opened.wait(10)
        return self._sock

    def take(self, size: int) -> bytes:
        return receive(self.sock, size)

    def is_ended(self) -> bool:
        """Whether the other side says its last word now; False when it says something else."""
        return self.sock.recv(1) == b""

    def is_reset(self) -> bool:
        try:
            self.sock.recv(1)
        except ConnectionResetError:
            return True
        return False

    def finish(self) -> None:
        """Lets go of the connection."""
        self._finished.set()


def receive(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        more = sock.recv(size - len(data))
        assert more, f"the tunnel ended behind {bytes(data[-100:])!r}"
        data += more
    return bytes(data)


def open_tunnel(client: Client, target: str = "/chat") -> None:
    assert client.ask(get(target, *UPGRADE)).status == 101


def reset(sock: socket.socket) -> None:
    """Ends a connection as a process does that is killed with unread bytes."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def wait_nothing_is_left(daemon: Daemon) -> None:
    def is_left() -> bool:
        metrics = daemon.metrics()
        return bool(metrics.total("ratelimitd_connections") or metrics.total("ratelimitd_upstream_inflight"))

    wait_until(lambda: not is_left(), "nothing is left of the tunnel")
