"""Floods of connections that never come to their first request: no PROXY header, no end of a TLS handshake.

They are bounded as all others are, over all workers and at the limit of descriptors: whoever speaks HTTP only
after something else must not get around what holds for those who speak it at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.daemon import Daemon
from tests.e2e.test_floods import FILES, assert_rests, is_open
from tests.proxy.tls_talking import Bytes, trusting
from tests.servers import LOOPBACK, Nginx, free_port, wait_until

PROXY_HEADER = b"PROXY TCP4 192.0.2.1 192.0.2.9 56324 443\r\n"
FILE = """
listen: [{bind: "%s:%d", %s}]
upstreams: {web: {servers: ["%s"]}}
clients: {trusted_proxies: [127.0.0.1]}
timeouts: {head: 1m}
bounds: {connections: %d}
log: {access: none}
"""


@dataclasses.dataclass(frozen=True)
class Preamble:
    """What a listener wants before a request, and how a client brings part of it or all."""

    setting: str
    begun: bytes
    tls: ssl.SSLContext | None = None

    def connect(self, daemon: Daemon) -> socket.socket:
        return socket.create_connection((LOOPBACK, daemon.port), timeout=10)

    def finish(self, sock: socket.socket) -> socket.socket:
        """The same connection, ready for a request; it takes the place of `sock`."""
        if self.tls is None:
            sock.sendall(PROXY_HEADER)
            return sock
        return self.tls.wrap_socket(sock, server_hostname="a.example")

    def is_served(self, sock: socket.socket) -> bool:
        """Whether a request on it is answered; the connection is closed then."""
        with contextlib.suppress(OSError), self.finish(sock) as ready:
            return is_open(ready)
        return False


@pytest.fixture(scope="module", params=["proxy header", "tls"])
def preamble(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Preamble:
    if request.param == "proxy header":
        return Preamble("proxy_protocol: true", PROXY_HEADER[:20])
    authority = Authority(tmp_path_factory.mktemp("certificates"))
    context = trusting(authority.file)
    hello = Bytes(context, "a.example").hello()
    return Preamble(f"tls: {authority.issue('a.example').yaml}", hello, context)


@contextlib.contextmanager
def running(
    directory: Path, nginx: Nginx, preamble: Preamble, *, connections: int, workers: int, files: int = 0
) -> Iterator[Daemon]:
    port = free_port()
    file = directory / "ratelimitd.yaml"
    file.write_text(FILE % (LOOPBACK, port, preamble.setting, nginx.url, connections))
    prefix = ("prlimit", f"--nofile={files}:{files}") if files else ()
    daemon = Daemon(
        directory, ["-c", str(file)], workers=workers, port=port, listens_by_file=True, prefix=prefix
    )
    try:
        daemon.wait_ready()
        yield daemon
        daemon.finish()
        assert "unexpected" not in daemon.stderr
    finally:
        daemon.stop()


@pytest.mark.parametrize("begins", [False, True], ids=["silent", "begun"])
def test_those_who_never_ask_are_bounded_over_all_workers(
    tmp_path: Path, nginx: Nginx, preamble: Preamble, begins: bool
) -> None:
    with (
        contextlib.ExitStack() as stack,
        running(tmp_path, nginx, preamble, connections=40, workers=2) as daemon,
    ):
        socks = [stack.enter_context(preamble.connect(daemon)) for _ in range(60)]
        for sock in socks if begins else ():
            with contextlib.suppress(OSError):
                sock.sendall(preamble.begun)

        def refused() -> float:
            return daemon.metrics().total("ratelimitd_connections_refused_total", reason="total")

        wait_until(lambda: refused() == 20, "those above the bound are closed")
        assert daemon.metrics().total("ratelimitd_connections") == 40
        stack.pop_all().close()
        wait_until(lambda: daemon.metrics().total("ratelimitd_connections") == 0, "they are gone")
        with preamble.connect(daemon) as sock:
            assert preamble.is_served(sock)


def test_a_place_is_handed_over_to_the_requests(tmp_path: Path, nginx: Nginx, preamble: Preamble) -> None:
    """One connection has one place, before its first request and after."""
    with running(tmp_path, nginx, preamble, connections=20, workers=2) as daemon:
        for _ in range(3):
            with contextlib.ExitStack() as stack:
                socks = [preamble.finish(preamble.connect(daemon)) for _ in range(20)]
                for sock in socks:
                    stack.enter_context(sock)
                assert all(is_open(sock) for sock in socks)
            wait_until(lambda: daemon.metrics().total("ratelimitd_connections") == 0, "they are gone")


def test_at_the_limit_of_descriptors_those_who_never_ask_end_first(
    tmp_path: Path, nginx: Nginx, preamble: Preamble
) -> None:
    with (
        contextlib.ExitStack() as stack,
        running(tmp_path, nginx, preamble, connections=10_000, workers=1, files=FILES) as daemon,
    ):
        for _ in range(4 * FILES):
            stack.enter_context(preamble.connect(daemon))

        def is_served() -> bool:
            with preamble.connect(daemon) as sock:
                return preamble.is_served(sock)

        wait_until(is_served, "a client is served beside them")
        assert sum(is_served() for _ in range(30)) >= 29
        assert_rests(daemon)
        assert daemon.metrics().total("ratelimitd_worker_restarts_total") == 0
