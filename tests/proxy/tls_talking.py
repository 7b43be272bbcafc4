"""Clients that speak TLS with the daemon: over a socket as Client does, or byte by byte as a test wants."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterable
from pathlib import Path

from tests.proxy.talking import Client


def trusting(authority: Path, *, highest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    """A context for clients that trust this authority alone."""
    context = ssl.create_default_context(cafile=str(authority))
    context.maximum_version = highest
    return context


class TlsClient(Client):
    """One connection with TLS; `before` is sent first, plainly. An end without a close_notify is an error."""

    sock: ssl.SSLSocket

    def __init__(
        self, port: int, context: ssl.SSLContext, name: str, *, source: str = "127.0.0.1", before: bytes = b""
    ) -> None:
        super().__init__(port, source)
        self.sock.sendall(before)
        plain: socket.socket = self.sock
        self.sock = context.wrap_socket(plain, server_hostname=name, suppress_ragged_eofs=False)


class Bytes:
    """TLS in memory: what a client would send, and what it makes of what it receives."""

    def __init__(self, context: ssl.SSLContext, name: str) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        self.before = b""  # sent plainly, in one segment with the first message

    def hello(self) -> bytes:
        """The first message of the handshake."""
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return self.before + self._outgoing.read()
        raise AssertionError("a handshake with nobody")

    def shake_hands(self, sock: socket.socket, cut: Iterable[int] = ()) -> None:
        """Finishes the handshake over `sock`."""
        send_cut(sock, self.hello(), cut)
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                send_cut(sock, self._outgoing.read(), cut)
                self._incoming.write(received(sock))
            else:
                send_cut(sock, self._outgoing.read(), cut)
                return

    def encrypt(self, data: bytes) -> bytes:
        self.tls.write(data)
        return self._outgoing.read()

    def end(self) -> bytes:
        """What announces that nothing more will be sent."""
        with contextlib.suppress(ssl.SSLError):
            self.tls.unwrap()
        return self._outgoing.read()

    def read(self, sock: socket.socket, size: int) -> bytes:
        """`size` bytes of what the daemon says."""
        data = b""
        while len(data) < size:
            try:
                data += self.tls.read(size - len(data))
            except ssl.SSLWantReadError:
                self._incoming.write(received(sock))
        return data


def received(sock: socket.socket) -> bytes:
    data = sock.recv(65_536)
    assert data, "the connection ended"
    return data


def send_cut(sock: socket.socket, data: bytes, cut: Iterable[int]) -> None:
    """Sends `data` in pieces of these sizes, and what is left in one."""
    at = 0
    for size in cut:
        if at < len(data):
            sock.sendall(data[at : at + size])
            at += size
    sock.sendall(data[at:])
