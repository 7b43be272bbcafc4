"""Tunnels with TLS on both sides: bytes, last words, and ends that TLS has not announced."""

from __future__ import annotations

import errno
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.daemon import Daemon
from tests.proxy.recording import Recording
from tests.proxy.talking import Client, get
from tests.proxy.tls_talking import Bytes, TlsClient, trusting
from tests.proxy.tunnelling import UPGRADE, Peer, echoing, open_tunnel, receive, wait_nothing_is_left
from tests.servers import LOOPBACK, free_port, wait_until

NAME = "a.example"
PIECE = 100 << 10


class Secured:
    """A daemon that speaks TLS with clients and with `server`."""

    def __init__(self, directory: Path) -> None:
        authority = Authority(directory)
        self._authority = authority.file
        pair = authority.issue(LOOPBACK, file="server")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.certificate, pair.key)
        self.server = Recording(tls=context)
        self.port = free_port()
        file = directory / "ratelimitd.yaml"
        file.write_text(
            "workers: 1\n"
            f"listen: [{{bind: '{LOOPBACK}:{self.port}', tls: {authority.issue(NAME).yaml}}}]\n"
            f"upstreams: {{web: {{servers: ['https://{LOOPBACK}:{self.server.port}'], "
            f"tls: {{ca: '{authority.file}'}}}}}}\n"
        )
        self.daemon = Daemon(directory, ["-c", str(file)], port=self.port, listens_by_file=True)

    def client(self) -> TlsClient:
        return TlsClient(self.port, trusting(self._authority), NAME)

    def memory(self) -> Bytes:
        return Bytes(trusting(self._authority), NAME)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    secured = Secured(tmp_path_factory.mktemp("secured"))
    try:
        with secured.server:
            secured.daemon.wait_ready()
            yield secured
            secured.daemon.finish()
    finally:
        secured.daemon.stop()


@pytest.fixture
def secured(started: Secured) -> Iterator[Secured]:
    started.server.clear()
    yield started
    wait_nothing_is_left(started.daemon)


@pytest.fixture
def peer(secured: Secured) -> Iterator[Peer]:
    peer = Peer(secured.server)
    yield peer
    peer.finish()


def test_bytes_pass_both_ways(secured: Secured) -> None:
    secured.server.script = echoing
    message = bytes(range(256)) * (20 * PIECE // 256)
    with secured.client() as client:
        open_tunnel(client)
        for at in range(0, len(message), PIECE):
            client.send(message[at : at + PIECE])
            assert receive(client.sock, PIECE) == message[at : at + PIECE]


def test_a_client_may_say_its_last_word_first(secured: Secured, peer: Peer) -> None:
    tls = secured.memory()
    with Client(secured.port) as client:
        tls.shake_hands(client.sock)
        client.send(tls.encrypt(get("/", *UPGRADE) + b"last") + tls.end())
        assert peer.take(4) == b"last"
        assert peer.is_ended()
        peer.sock.sendall(b"more")
        got = b""
        while not got.endswith(b"more"):
            got += tls.read(client.sock, 1)


def test_a_server_that_ends_is_followed_by_the_client(secured: Secured, peer: Peer) -> None:
    with secured.client() as client:
        open_tunnel(client)
        assert isinstance(peer.sock, ssl.SSLSocket)
        peer.sock.sendall(b"last")
        unwrapping = threading.Thread(target=peer.sock.unwrap)
        unwrapping.start()
        assert client.rest() == b"last"
        client.sock.unwrap()
        unwrapping.join(10)


@pytest.mark.parametrize("vanishes", ["client", "server"])
def test_an_end_without_notice_is_passed_on_as_none(secured: Secured, peer: Peer, vanishes: str) -> None:
    with secured.client() as client:
        open_tunnel(client)
        ends, notices = (client.sock, peer.sock) if vanishes == "client" else (peer.sock, client.sock)
        ends.shutdown(socket.SHUT_RDWR)
        wait_until(
            lambda: notices.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET, "it is reset"
        )
