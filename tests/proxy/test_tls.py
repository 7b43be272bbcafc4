"""Listeners that speak TLS: which certificate a client gets, what is forwarded, and how a connection ends.

Real clients are curl, openssl and Python's ssl; where bytes are cut matters nowhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.certificates import Authority
from tests.daemon import Daemon
from tests.http.test_proxy_protocol import PROXY, TCP6, v2
from tests.proxy.recording import OK, Closed, Connection, Recording, values
from tests.proxy.talking import Client, get, post
from tests.proxy.test_client import SYSTEM_BUFFERS, resident_kib
from tests.proxy.tls_talking import Bytes, TlsClient, send_cut, trusting
from tests.servers import LOOPBACK, free_port, wait_until

TRUSTED = "127.0.0.2"
NAME = "a.example"
MIB = 1 << 20

FILE = """
workers: 1
listen:
  - {{bind: "{LOOPBACK}:{port}", tls: [{first}, {second}, {lone}]}}
  - {{bind: "{LOOPBACK}:{proxied}", tls: {first}, proxy_protocol: true}}
  - {{bind: "unix:{socket}", tls: {first}}}
upstreams: {{web: {{servers: ["{url}"], keepalive_idle: 1m}}}}
clients: {{trusted_proxies: [{TRUSTED}]}}
headers: {{forwarded: both}}
timeouts: {{head: 1s}}
bounds: {{connections_per_client: 100}}
"""


class Terminating:
    """A daemon that speaks TLS on two ports and a Unix socket."""

    def __init__(self, directory: Path, url: str) -> None:
        authority = Authority(directory)
        self.authority = authority.file
        self.port, self.proxied = free_port(), free_port()
        self.socket = directory / "clients.sock"
        file = directory / "ratelimitd.yaml"
        file.write_text(
            FILE.format(
                LOOPBACK=LOOPBACK,
                TRUSTED=TRUSTED,
                port=self.port,
                proxied=self.proxied,
                socket=self.socket,
                url=url,
                first=authority.issue(NAME, "b.example").yaml,
                second=authority.issue("*.wild.example", "wild.example").yaml,
                lone=authority.issue(LOOPBACK, "c.example").yaml,
            )
        )
        self.daemon = Daemon(directory, ["-c", str(file)], port=self.port, listens_by_file=True)

    def client(self, name: str = NAME) -> TlsClient:
        return TlsClient(self.port, trusting(self.authority), name)

    def failures(self, reason: str) -> float:
        return self.daemon.metrics().total("ratelimitd_handshake_failures_total", reason=reason)


@pytest.fixture(scope="module")
def terminating(recording: Recording, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminating]:
    terminating = Terminating(tmp_path_factory.mktemp("daemon"), recording.url)
    try:
        terminating.daemon.wait_ready()
        yield terminating
        terminating.daemon.finish()
    finally:
        terminating.daemon.stop()


# --- who gets which certificate, and which TLS


@pytest.mark.parametrize(
    ("name", "certified"),
    [
        (NAME, NAME),
        ("B.EXAMPLE", NAME),
        ("x.wild.example", "*.wild.example"),
        ("wild.example", "*.wild.example"),
        ("c.example", LOOPBACK),
        ("x.y.wild.example", NAME),
        ("unknown.example", NAME),
        (None, NAME),
    ],
)
def test_the_certificate_is_chosen_by_the_name(
    terminating: Terminating, name: str | None, certified: str
) -> None:
    context = trusting(terminating.authority)
    context.check_hostname = False
    with socket.create_connection((LOOPBACK, terminating.port)) as plain:
        with context.wrap_socket(plain, server_hostname=name) as tls:
            certificate = tls.getpeercert()
    assert certificate is not None
    assert certificate["subject"] == ((("commonName", certified),),)


@pytest.mark.parametrize(
    "arguments",
    [(), ("--tlsv1.2", "--tls-max", "1.2"), ("--tlsv1.3",), ("--http2",), ("--http1.0",), ("--no-alpn",)],
)
def test_curl_is_served(terminating: Terminating, upstream: Recording, arguments: tuple[str, ...]) -> None:
    url = f"https://{NAME}:{terminating.port}/path"
    where = ["--cacert", str(terminating.authority), "--resolve", f"{NAME}:{terminating.port}:{LOOPBACK}"]
    curl = ["curl", "-sS", "--fail", "--max-time", "5", *where, *arguments, url, url]
    assert subprocess.run(curl, capture_output=True, check=True).stdout == b"okok"
    for request in upstream.requests:
        assert values(request, "x-forwarded-proto") == ["https"]
        assert values(request, "x-forwarded-for") == [LOOPBACK]
        (forwarded,) = values(request, "forwarded")
        assert forwarded.startswith(f"for={LOOPBACK};proto=https;host=")


def test_only_http_1_1_is_agreed_on(terminating: Terminating) -> None:
    for offered, agreed in ((["h2", "http/1.1"], "http/1.1"), (["http/1.1"], "http/1.1"), (["h2"], None)):
        context = trusting(terminating.authority)
        context.set_alpn_protocols(offered)
        with TlsClient(terminating.port, context, NAME) as client:
            assert client.sock.selected_alpn_protocol() == agreed


def openssl(port: int, *arguments: str, data: bytes = b"") -> str:
    command = ["openssl", "s_client", "-connect", f"{LOOPBACK}:{port}", *arguments]
    done = subprocess.run(command, input=data, capture_output=True, timeout=10, check=False)
    return (done.stdout + done.stderr).decode(errors="replace")


def test_older_versions_are_refused_and_counted(terminating: Terminating) -> None:
    before = terminating.failures("tls")
    for version in ("-tls1", "-tls1_1"):
        assert "Cipher is (NONE)" in openssl(terminating.port, version, "-cipher", "ALL:@SECLEVEL=0")
    wait_until(lambda: terminating.failures("tls") == before + 2, "both are counted")


def test_nothing_is_negotiated_anew(terminating: Terminating) -> None:
    """`R` asks openssl to do that."""
    assert "no renegotiation" in openssl(terminating.port, "-tls1_2", data=b"R\n")


def test_a_session_is_resumed(terminating: Terminating) -> None:
    context = trusting(terminating.authority, highest=ssl.TLSVersion.TLSv1_2)
    with TlsClient(terminating.port, context, NAME) as client:
        assert client.ask(get()).status == 200
        session = client.sock.session
    with socket.create_connection((LOOPBACK, terminating.port)) as plain:
        with context.wrap_socket(plain, server_hostname=NAME, session=session) as tls:
            assert tls.session_reused


# --- what is no TLS


def test_who_speaks_plain_http_is_told_so(terminating: Terminating, upstream: Recording) -> None:
    before = terminating.failures("tls")
    for data in (get(), post(bytes(100_000)), b"G"):
        with Client(terminating.port) as client:
            client.send(data)
            answer = client.answer()
            assert answer.status == 400
            assert answer["content-type"].startswith("text/plain")
            assert b"https://" in answer.body
            assert answer.closes
            assert client.is_closed()
    assert upstream.received == b""
    assert terminating.failures("tls") == before + 3


def test_anything_else_is_closed(terminating: Terminating) -> None:
    before = terminating.failures("tls")
    garbage = [b"\x00", b"\x80\x2e\x01\x00\x02", b"\x16\x03\x01\x00\x05hello", b"\x16\x02\x00\x00\x00"]
    for data in garbage:
        with Client(terminating.port) as client:
            client.send(data)
            with contextlib.suppress(OSError):
                client.rest()
    wait_until(lambda: terminating.failures("tls") == before + len(garbage), "all are counted")


def test_a_name_that_is_no_text_disturbs_nobody(terminating: Terminating) -> None:
    """A hello as Python makes it, but for one byte of its name."""
    hello = Bytes(trusting(terminating.authority), "unknown.example").hello()
    assert hello.count(b"unknown") == 1
    with Client(terminating.port) as client:
        client.send(hello.replace(b"unknown", b"unkn\xffwn"))
        with contextlib.suppress(OSError):
            client.rest()
    with terminating.client() as client:
        assert client.ask(get()).status == 200
    assert "Exception" not in terminating.daemon.stderr
    assert "unkn" not in terminating.daemon.stderr


def test_a_handshake_that_takes_too_long_is_ended(terminating: Terminating) -> None:
    before = terminating.failures("timeout")
    hello = Bytes(trusting(terminating.authority), NAME).hello()
    with (
        Client(terminating.port) as silent,
        Client(terminating.port) as slow,
        Client(terminating.port) as half,
    ):
        slow.send(hello[:-1])
        half.send(hello)
        assert silent.is_closed()
        assert slow.is_closed()
        with contextlib.suppress(OSError):
            half.rest()
    wait_until(lambda: terminating.failures("timeout") == before + 3, "all are counted")


def test_a_head_that_takes_too_long_is_told(terminating: Terminating) -> None:
    with terminating.client() as client:
        client.send(get()[:-2])
        assert client.answer().status == 408


# --- how a connection ends


def test_the_end_is_announced(terminating: Terminating) -> None:
    with terminating.client() as client:
        client.send(get("/", "Connection: close"))
        assert client.answer().status == 200
        assert client.rest() == b"", "a close_notify came; without one the client would raise"


def test_an_end_that_is_announced_is_the_end_of_the_requests_alone(
    terminating: Terminating, upstream: Recording
) -> None:
    with socket.create_connection((LOOPBACK, terminating.port)) as sock:
        client = Bytes(trusting(terminating.authority), NAME)
        client.shake_hands(sock)
        request = client.encrypt(get("/1") + get("/2"))
        sock.sendall(request + client.end())
        assert client.read(sock, 2 * len(OK)).count(b"200 OK") == 2
    assert len(upstream.requests) == 2


def test_what_comes_behind_the_end_is_kept_nowhere(terminating: Terminating, upstream: Recording) -> None:
    answered = threading.Event()

    def script(connection: Connection, head: bytes) -> None:  # noqa: ARG001
        assert answered.wait(60)
        connection.send(OK)

    upstream.script = script
    tls = Bytes(trusting(terminating.authority), NAME)
    with socket.create_connection((LOOPBACK, terminating.port), 10) as sock:
        tls.shake_hands(sock)
        sock.sendall(tls.encrypt(get()) + tls.end())
        upstream.wait_requests(1)
        (worker,) = terminating.daemon.workers()
        before = resident_kib(worker)
        for _ in range(4096):
            sock.sendall(bytes(16_384))
        assert resident_kib(worker) - before < 2048
        answered.set()
        assert tls.read(sock, 17).startswith(b"HTTP/1.1 200 OK\r\n")


def test_an_end_that_is_not_announced_cuts_what_is_not_whole(
    terminating: Terminating, upstream: Recording
) -> None:
    def script(connection: Connection, head: bytes) -> None:
        with contextlib.suppress(Closed):
            connection.read_body(head)
        raise Closed

    upstream.script = script
    body = bytes(200_000)
    with socket.create_connection((LOOPBACK, terminating.port)) as sock:
        client = Bytes(trusting(terminating.authority), NAME)
        client.shake_hands(sock)
        sock.sendall(client.encrypt(post(body)[:-1]))
        upstream.wait_requests(1)
        sock.shutdown(socket.SHUT_WR)
        assert upstream.connections[0].ended.wait(10)
    assert len(upstream.received) < len(body) + 1000


def test_many_that_leave_at_any_time_leave_nothing_behind(
    terminating: Terminating, upstream: Recording
) -> None:
    descriptors = Path(f"/proc/{terminating.daemon.workers()[0]}/fd")
    before = len(list(descriptors.iterdir()))
    for at in range(0, 600, 20):
        with Client(terminating.port) as client:
            tls = Bytes(trusting(terminating.authority), NAME)
            if at < 300:
                client.send(tls.hello()[:at])
            else:
                tls.shake_hands(client.sock)
                client.send(tls.encrypt(get())[: at - 300])

    def settled() -> bool:
        upstream.drop_connections()  # they are kept, and as many as there were requests at once
        connections = terminating.daemon.metrics().total("ratelimitd_connections")
        return connections == 0 and len(list(descriptors.iterdir())) <= before

    wait_until(settled, "no connection and no descriptor is left over", timeout_s=60)


# --- behind a PROXY header, and over a Unix socket


@pytest.mark.parametrize(
    ("header", "peer"),
    [(b"PROXY TCP4 192.0.2.1 192.0.2.9 56324 443\r\n", "192.0.2.1"), (v2(PROXY, 0x21, TCP6), "2001:db8::1")],
    ids=["v1", "v2"],
)
def test_behind_a_proxy_header_in_one_segment(
    terminating: Terminating, upstream: Recording, header: bytes, peer: str
) -> None:
    for cut in ((), (1,) * 700):
        client = Bytes(trusting(terminating.authority), NAME)
        with Client(terminating.proxied, TRUSTED) as plain:
            plain.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.before = header
            client.shake_hands(plain.sock, cut)
            plain.send(client.encrypt(get()))
            assert client.read(plain.sock, 15) == b"HTTP/1.1 200 OK"
        request = upstream.requests[-1]
        assert values(request, "x-forwarded-for") == [peer]
        assert values(request, "x-forwarded-proto") == ["https"]


def test_over_a_unix_socket(terminating: Terminating, upstream: Recording) -> None:
    with socket.socket(socket.AF_UNIX) as plain:
        plain.connect(str(terminating.socket))
        with trusting(terminating.authority).wrap_socket(plain, server_hostname=NAME) as tls:
            tls.sendall(get("/", "Connection: close"))
            assert b"".join(iter(lambda: tls.recv(65_536), b"")).startswith(b"HTTP/1.1 200 OK\r\n")
    assert values(upstream.requests[0], "x-forwarded-for") == ["unix"]
    assert values(upstream.requests[0], "x-forwarded-proto") == ["https"]


# --- bytes


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 3000), max_size=80), st.lists(st.integers(0, 40_000), max_size=6))
def test_any_cut_of_its_bytes_is_read_alike(
    terminating: Terminating, upstream: Recording, cut: list[int], bodies: list[int]
) -> None:
    """The invariant: what the web server receives does not hang on where bytes are cut."""
    upstream.clear()
    with socket.create_connection((LOOPBACK, terminating.port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = Bytes(trusting(terminating.authority), NAME)
        client.shake_hands(sock, cut)
        data = b"".join(client.encrypt(post(bytes([n]) * size)) for n, size in enumerate(bodies))
        send_cut(sock, data + client.encrypt(get("/last")), cut)
        assert client.read(sock, len(OK) * (len(bodies) + 1)).count(b"200 OK") == len(bodies) + 1
    arrived = [request.partition(b"\r\n\r\n")[2] for request in upstream.requests]
    assert arrived == [*(bytes([n]) * size for n, size in enumerate(bodies)), b""]


def test_a_body_of_64_mib_goes_through_both_ways(terminating: Terminating, upstream: Recording) -> None:
    seen = hashlib.sha256()
    block = os.urandom(MIB)

    def script(connection: Connection, head: bytes) -> None:  # noqa: ARG001
        for _ in range(64):
            seen.update(connection.take(MIB))
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 * MIB))
        for _ in range(64):
            connection.send(block)

    upstream.script = script
    with terminating.client() as client:
        client.send(get("/", f"Content-Length: {64 * MIB}", method="POST"))
        for _ in range(64):
            client.send(block)
        assert client.head().status == 200
        for _ in range(64):
            assert client.take(MIB) == block
    expected = hashlib.sha256()
    for _ in range(64):
        expected.update(block)
    assert seen.digest() == expected.digest()


def test_a_client_that_does_not_read_stops_the_web_server(
    terminating: Terminating, upstream: Recording
) -> None:
    (worker,) = terminating.daemon.workers()
    blocked = threading.Event()
    sent = 0

    def flood(connection: Connection, head: bytes) -> None:  # noqa: ARG001
        nonlocal sent
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (150 * MIB))
        connection.sock.settimeout(0.3)
        block = bytes(MIB)
        with contextlib.suppress(TimeoutError):
            while sent < 150 * MIB:
                sent += connection.sock.send(block)
        blocked.set()
        connection.sock.settimeout(10)
        while sent < 150 * MIB:
            part = block[: 150 * MIB - sent]
            connection.send(part)
            sent += len(part)

    upstream.script = flood
    before = resident_kib(worker)
    with terminating.client() as client:
        client.send(get())
        assert blocked.wait(10)
        assert sent < SYSTEM_BUFFERS
        assert resident_kib(worker) - before < 2_048
        assert client.head().status == 200
        for _ in range(150):
            assert client.take(MIB) == bytes(MIB)


def test_a_web_server_that_does_not_read_stops_the_client(
    terminating: Terminating, upstream: Recording
) -> None:
    (worker,) = terminating.daemon.workers()
    go = threading.Event()

    def late(connection: Connection, head: bytes) -> None:  # noqa: ARG001
        assert go.wait(10)
        for _ in range(150):
            connection.take(MIB)
        connection.send(OK)

    upstream.script = late
    before = resident_kib(worker)
    sent, body = 0, bytes(MIB)
    with terminating.client() as client:
        client.send(get("/", f"Content-Length: {150 * MIB}", method="POST"))
        client.sock.settimeout(0.3)
        # What a TLS socket could not send whole it must be given again.
        with contextlib.suppress(TimeoutError):
            while sent < 150 * MIB:
                sent += client.sock.send(body[:16_384])
        assert sent < SYSTEM_BUFFERS
        assert resident_kib(worker) - before < 2_048
        client.sock.settimeout(10)
        go.set()
        while sent < 150 * MIB:
            sent += client.sock.send(body[: min(16_384, 150 * MIB - sent)])
        assert client.answer().status == 200
