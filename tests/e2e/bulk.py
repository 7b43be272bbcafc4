"""Large bodies at a told pace: a web server and a client that hash what they send and what they get.

`/FRAMING/BYTES` is answered with so many random bytes; what is uploaded is answered with its hash, and to
`/deaf` it is not read. Nothing larger than a piece is ever held.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from typing import BinaryIO, Final, Self

from tests.certificates import Pair
from tests.servers import LOOPBACK

PIECE: Final = 1 << 18
TIMEOUT_S: Final = 60.0


def pieces(size: int, rate: float) -> Iterator[bytes]:
    """Random bytes, each piece when its time has come; `rate` is in bytes a second, 0: at once."""
    source = random.Random(size)
    began = time.monotonic()
    for sent in range(0, size, PIECE):
        if rate and (early_s := began + sent / rate - time.monotonic()) > 0:
            time.sleep(early_s)
        yield source.randbytes(min(PIECE, size - sent))


def send_body(sock: socket.socket, size: int, rate: float, *, chunked: bool) -> str:
    """Sends it, and gives its hash."""
    digest = hashlib.sha256()
    for piece in pieces(size, rate):
        digest.update(piece)
        sock.sendall(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
    if chunked:
        sock.sendall(b"0\r\n\r\n")
    return digest.hexdigest()


def head_of(stream: BinaryIO) -> tuple[bytes, dict[bytes, bytes]]:
    """The first line of a head, empty at the end of the connection, and the fields by name in lower case."""
    first = stream.readline()
    fields = {}
    while (line := stream.readline().rstrip()) != b"":
        name, _, value = line.partition(b":")
        fields[name.lower()] = value.strip()
    return first, fields


def hash_body(stream: BinaryIO, fields: dict[bytes, bytes]) -> str:
    """Reads a body in whatever framing, and gives its hash; raises ValueError when it is not whole."""
    digest = hashlib.sha256()
    if b"content-length" in fields:
        _take(stream, int(fields[b"content-length"]), digest)
    elif b"transfer-encoding" in fields:
        while size := int(stream.readline(), 16):
            _take(stream, size, digest)
            stream.readline()
        stream.readline()
    else:
        while piece := stream.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()


def _take(stream: BinaryIO, size: int, digest: hashlib._Hash) -> None:
    while size:
        piece = stream.read(min(PIECE, size))
        if not piece:
            raise ValueError(f"{size} bytes are missing")
        digest.update(piece)
        size -= len(piece)


class Origin:
    """The web server, over TLS with a `pair`; `hashes` are those of the bodies it sent, by the target they
    were asked under."""

    def __init__(self, rate: float = 0, pair: Pair | None = None) -> None:
        self._rate = rate
        self._tls = None
        if pair is not None:
            self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self._tls.load_cert_chain(pair.certificate, pair.key)
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port: Final[int] = self._listener.getsockname()[1]
        self.hashes: Final[dict[str, str]] = {}
        self._ending = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{LOOPBACK}:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        sock.settimeout(TIMEOUT_S)
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.enter_context(sock)
            if self._tls is not None:
                sock = stack.enter_context(self._tls.wrap_socket(sock, server_side=True))
            stream = stack.enter_context(sock.makefile("rb"))
            while True:
                first, fields = head_of(stream)
                if first.startswith(b"POST /deaf "):
                    self._ending.wait(TIMEOUT_S)
                    return
                if first.startswith(b"POST "):
                    digest = hash_body(stream, fields).encode()
                    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(digest), digest))
                elif not first or not self._answer(sock, first.split(b" ")[1].decode()):
                    break
            if isinstance(sock, ssl.SSLSocket):
                sock.unwrap()  # without a close_notify an answer that ends with its connection is cut

    def _answer(self, sock: socket.socket, target: str) -> bool:
        """Sends what is asked for; whether the connection goes on."""
        framing, size = target.strip("/").split("/")
        lines = {"length": f"Content-Length: {size}", "chunked": "Transfer-Encoding: chunked"}
        sock.sendall(f"HTTP/1.1 200 OK\r\n{lines.get(framing, 'Connection: close')}\r\n\r\n".encode())
        self.hashes[target] = send_body(sock, int(size), self._rate, chunked=framing == "chunked")
        return framing in lines


def connect(port: int, tls: ssl.SSLContext | None = None, received: int | None = None) -> socket.socket:
    """`received`: how many bytes the system is to hold for a client that reads nothing."""
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.socket())
        if received is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, received)
        sock.settimeout(TIMEOUT_S)
        sock.connect((LOOPBACK, port))
        if tls is not None:
            sock = tls.wrap_socket(sock, server_hostname=LOOPBACK)
        stack.pop_all()
        return sock


def download(port: int, target: str, tls: ssl.SSLContext | None = None) -> str:
    """The hash of what comes under a target."""
    with connect(port, tls) as sock:
        sock.sendall(f"GET {target} HTTP/1.1\r\nHost: a.example\r\n\r\n".encode())
        with sock.makefile("rb") as stream:
            first, fields = head_of(stream)
            assert first.startswith(b"HTTP/1.1 200 "), first
            return hash_body(stream, fields)


def upload(port: int, framing: str, size: int, rate: float) -> tuple[str, str]:
    """The hashes of what was sent, and of what arrived."""
    line = f"Content-Length: {size}" if framing == "length" else "Transfer-Encoding: chunked"
    with connect(port) as sock:
        sock.sendall(f"POST /upload HTTP/1.1\r\nHost: a.example\r\n{line}\r\n\r\n".encode())
        sent = send_body(sock, size, rate, chunked=framing == "chunked")
        with sock.makefile("rb") as stream:
            first, fields = head_of(stream)
            assert first.startswith(b"HTTP/1.1 200 "), first
            return sent, stream.read(int(fields[b"content-length"])).decode()
