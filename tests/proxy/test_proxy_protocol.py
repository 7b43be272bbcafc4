"""Listeners that expect a PROXY header: who may bring one, who the client is then, what becomes of others.

Trusted are 127.0.0.2 and Unix sockets. HAProxy is a real sender of both versions.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import Daemon
from tests.http.test_proxy_protocol import LOCAL, PROXY, TCP4, TCP6, UNIX, v2
from tests.proxy.recording import Recording, values
from tests.proxy.talking import Client, get, post
from tests.servers import LOOPBACK, Process, free_port, wait_until

TRUSTED, ANYBODY = "127.0.0.2", "127.0.0.1"
V1 = b"PROXY TCP4 192.0.2.1 192.0.2.9 56324 443\r\n"

FILE = """
workers: 1
listen:
  - {{bind: "{LOOPBACK}:{port}", proxy_protocol: true}}
  - {{bind: "unix:{socket}", proxy_protocol: true}}
upstreams: {{web: {{servers: ["{url}"], keepalive_idle: 1m}}}}
clients: {{trusted_proxies: [{TRUSTED}, unix], deny: [192.0.2.66]}}
limits: [{{name: once, per: client, rate: 1/1d, match: {{path: /once}}}}]
timeouts: {{head: 1s}}
bounds: {{connections_per_client: 3}}
log: {{destination: "{log}"}}
"""


class Behind:
    """A daemon behind proxies: where it listens, and what it logs."""

    def __init__(self, directory: Path, url: str) -> None:
        self.port = free_port()
        self.socket = directory / "clients.sock"
        self._log = directory / "access.log"
        file = directory / "ratelimitd.yaml"
        places = {"port": self.port, "socket": self.socket, "log": self._log}
        file.write_text(FILE.format(LOOPBACK=LOOPBACK, TRUSTED=TRUSTED, url=url, **places))
        self.daemon = Daemon(directory, ["-c", str(file)], port=self.port, listens_by_file=True)

    def failures(self, reason: str) -> float:
        return self.daemon.metrics().total("ratelimitd_handshake_failures_total", reason=reason)

    def assert_closed_and_counted(self, client: Client, reason: str, before: float) -> None:
        assert client.is_closed()
        wait_until(lambda: self.failures(reason) == before + 1, f"{reason} is counted")

    def line(self, target: str) -> dict[str, Any]:
        """The access log's line of the request for `target`."""

        def find() -> dict[str, Any] | None:
            lines = map(json.loads, self._log.read_text().splitlines())
            return next((line for line in lines if line["target"] == target), None)

        return wait_until(find, f"a line of {target}")


@pytest.fixture(scope="module")
def behind(recording: Recording, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    behind = Behind(tmp_path_factory.mktemp("daemon"), recording.url)
    try:
        behind.daemon.wait_ready()
        yield behind
        behind.daemon.finish()
    finally:
        behind.daemon.stop()


@pytest.mark.parametrize(
    ("header", "peer"),
    [
        (V1, "192.0.2.1"),
        (b"PROXY TCP6 2001:db8::1 2001:db8::9 1 2\r\n", "2001:db8::1"),
        (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", "192.0.2.1"),
        (b"PROXY UNKNOWN\r\n", TRUSTED),
        (v2(PROXY, 0x11, TCP4 + b"\x04\x00\x01x"), "192.0.2.1"),
        (v2(PROXY, 0x21, TCP6), "2001:db8::1"),
        (v2(PROXY, 0x31, UNIX), "unix"),
        (v2(PROXY, 0x00, b""), TRUSTED),
        (v2(LOCAL, 0x11, TCP4), TRUSTED),
    ],
    ids=["v1-4", "v1-6", "v1-mapped", "v1-unknown", "v2-4", "v2-6", "v2-unix", "v2-unspecified", "v2-local"],
)
def test_its_source_is_the_peer(behind: Behind, upstream: Recording, header: bytes, peer: str) -> None:
    target = f"/peer/{header.hex()[:200]}"
    for send in (Client.send, Client.send_bytes):
        with Client(behind.port, TRUSTED) as client:
            send(client, header + get(target))
            assert client.answer().status == 200
            assert client.ask(get("/second")).status == 200
        for request in upstream.requests:
            assert values(request, "x-forwarded-for") == [peer]
            assert values(request, "x-forwarded-proto") == ["http"]
    assert behind.line(target)["client"] == peer


def test_what_came_behind_it_is_read_as_it_is(behind: Behind, upstream: Recording) -> None:
    body = V1 + bytes(100_000)
    with Client(behind.port, TRUSTED) as client:
        client.send(V1 + get("/first") + post(body) + get("/last"))
        assert [client.answer().status for _ in range(3)] == [200] * 3
    assert upstream.wait_requests(3)[1].endswith(b"\r\n\r\n" + body)


def test_limits_and_denials_hold_for_who_it_names(behind: Behind, upstream: Recording) -> None:
    def ask(source: str, *lines: str) -> int:
        with Client(behind.port, TRUSTED) as client:
            client.send(f"PROXY TCP4 {source} 192.0.2.9 1 2\r\n".encode())
            return client.ask(get("/once", *lines)).status

    assert [ask("192.0.2.10"), ask("192.0.2.10"), ask("192.0.2.11")] == [200, 429, 200]
    assert ask("192.0.2.66") == 403
    # A client cannot say who it is by a field: the proxy has said it. Another trusted proxy behind it may.
    assert ask("192.0.2.10", "X-Forwarded-For: 192.0.2.12") == 429
    assert ask(TRUSTED, "X-Forwarded-For: 192.0.2.12") == 200
    assert values(upstream.requests[-1], "x-forwarded-for") == [f"192.0.2.12, {TRUSTED}"]


def test_who_is_not_trusted_is_closed_whatever_it_brings(behind: Behind, upstream: Recording) -> None:
    for data in (V1 + get(), get(), b""):
        before = behind.failures("untrusted")
        with Client(behind.port, ANYBODY) as client:
            with contextlib.suppress(OSError):
                client.send(data)
            behind.assert_closed_and_counted(client, "untrusted", before)
    assert upstream.received == b""


@pytest.mark.parametrize(
    "data",
    [get(), b"G", b"PROXY TCP4 192.0.2.1\r\n" + get(), b"PROXY TCP4 192.0.2.1 192.0.2.9 1 2\n" + get(),
     v2(0x22, 0x11, TCP4) + get(), v2(PROXY, 0x11, TCP4[:-1]) + get(), b"\x16\x03\x01", V1[:20]],
)  # fmt: skip
def test_who_brings_none_is_closed(behind: Behind, upstream: Recording, data: bytes) -> None:
    before = behind.failures("proxy_header")
    with Client(behind.port, TRUSTED) as client:
        client.send(data)
        if data == V1[:20]:
            client.end()
        behind.assert_closed_and_counted(client, "proxy_header", before)
    assert upstream.received == b""


def test_one_that_takes_too_long_is_closed(behind: Behind) -> None:
    before = behind.failures("timeout")
    with Client(behind.port, TRUSTED) as silent, Client(behind.port, TRUSTED) as slow:
        slow.send(V1[:-1])
        assert silent.is_closed()
        assert slow.is_closed()
    wait_until(lambda: behind.failures("timeout") == before + 2, "both are counted")


def test_connections_are_counted_by_who_it_names(behind: Behind, upstream: Recording) -> None:
    refused = "ratelimitd_connections_refused_total"
    before = behind.daemon.metrics().total(refused, reason="client")
    with contextlib.ExitStack() as stack:

        def connect(header: bytes) -> Client:
            client = stack.enter_context(Client(behind.port, TRUSTED))
            client.send(header)
            return client

        assert [connect(V1).ask(get()).status for _ in range(3)] == [200] * 3
        assert connect(V1).is_closed(), "one too many from 192.0.2.1"
        assert connect(V1.replace(b"192.0.2.1", b"192.0.2.2")).ask(get()).status == 200
        assert [connect(b"PROXY UNKNOWN\r\n").ask(get()).status for _ in range(4)] == [200] * 4
    assert behind.daemon.metrics().total(refused, reason="client") == before + 1
    assert len(upstream.requests) == 8
    wait_until(lambda: not behind.daemon.metrics().total("ratelimitd_connections"), "none is left over")


def test_over_a_unix_socket(behind: Behind, upstream: Recording) -> None:
    named = {V1: "192.0.2.1", v2(LOCAL, 0, b""): "unix", v2(PROXY, 0x21, TCP6): "2001:db8::1"}
    for header, peer in named.items():
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(str(behind.socket))
            sock.sendall(header + get("/", "Connection: close"))
            assert b"".join(iter(lambda: sock.recv(65536), b"")).startswith(b"HTTP/1.1 200 OK\r\n")
        assert values(upstream.requests[-1], "x-forwarded-for") == [peer]


def test_who_left_at_once_leaves_nothing_behind(behind: Behind) -> None:
    reset = struct.pack("ii", 1, 0)
    for data in (b"", V1[:7], V1, V1 + get()[:9]):
        with Client(behind.port, TRUSTED) as client:
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            client.send(data)
    wait_until(lambda: not behind.daemon.metrics().total("ratelimitd_connections"), "none is left over")


class Haproxy(Process):
    """HAProxy as the proxy in front, which says who its clients are by a header of each version."""

    def __init__(self, directory: Path, server: int) -> None:
        self.ports = {version: free_port() for version in ("send-proxy", "send-proxy-v2")}
        binary = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        assert binary is not None, "haproxy is not installed: scripts/prepare test"
        file = directory / "haproxy.cfg"
        text = "defaults\n mode tcp\n timeout connect 5s\n timeout client 5s\n timeout server 5s\n"
        for version, port in self.ports.items():
            text += f"listen {version}\n bind {LOOPBACK}:{port}\n"
            text += f" server web {LOOPBACK}:{server} {version} source {TRUSTED}\n"
        file.write_text(text)
        super().__init__("haproxy", [binary, "-db", "-f", str(file)], directory)
        for port in self.ports.values():
            self.wait_for_port(port)


def test_behind_a_real_haproxy(behind: Behind, upstream: Recording, tmp_path: Path) -> None:
    with Haproxy(tmp_path, behind.port) as haproxy:
        for version, port in haproxy.ports.items():
            url = f"http://{LOOPBACK}:{port}/{version}"
            curl = ["curl", "-sS", "--fail", "--max-time", "5", "--interface", "127.0.0.5", url, url]
            assert subprocess.run(curl, capture_output=True, check=True).stdout == b"okok"
            assert behind.line(f"/{version}")["client"] == "127.0.0.5"
    assert [values(request, "x-forwarded-for") for request in upstream.requests] == [["127.0.0.5"]] * 4
