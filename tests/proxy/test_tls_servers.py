"""https:// servers: whom the daemon trusts, what it says when it does not, and how their answers end.

One daemon before a server for each case; a request for /NAME goes to the server of that case.
"""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import Authority, Pair
from tests.daemon import Daemon
from tests.proxy.recording import OK, Connection, Recording, answering, answering_then_closing
from tests.proxy.talking import Client, get, post
from tests.servers import LOOPBACK, wait_until

REFUSED = "certificate verify failed: "


@dataclasses.dataclass(frozen=True)
class Case:
    """What a server's certificate says, how it is checked, and what is said when it is not trusted."""

    names: tuple[str, ...]
    checks: str = "ca: {ca}"
    said: str = ""
    days: int = 30


CASES = {
    "trusted": Case((LOOPBACK,)),
    "name": Case(("a.example",), "ca: {ca}, server_name: A.example"),
    "wildcard": Case(("*.b.example",), "ca: {ca}, server_name: a.b.example"),
    "unchecked": Case(("b.example",), "verify: false"),
    "unknown-authority": Case((LOOPBACK,), "", f"{REFUSED}unable to get local issuer certificate"),
    "expired": Case((LOOPBACK,), said=f"{REFUSED}certificate has expired", days=-2),
    "other-address": Case(("a.example",), said=f"{REFUSED}IP address mismatch"),
    "other-name": Case(("a.example",), "ca: {ca}, server_name: b.example", f"{REFUSED}Hostname mismatch"),
    "plain": Case((), said="over TLS: wrong version number"),
    "silent": Case((), said="no connection within timeouts.connect"),
}


def serving(pair: Pair) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


class Before:
    """The daemon and its servers, by the name of their case."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        authority = Authority(directory)
        self.servers: dict[str, Recording] = {}
        upstreams, routes = "", ""
        for name, case in CASES.items():
            if name == "silent":  # the system takes connections that nobody accepts
                port = stack.enter_context(socket.create_server((LOOPBACK, 0))).getsockname()[1]
            else:
                pair = authority.issue(*case.names, days=case.days, file=name)
                tls = None if name == "plain" else serving(pair)
                server = self.servers[name] = stack.enter_context(Recording(tls=tls))
                port = server.port
            checks = case.checks.format(ca=authority.file)
            upstreams += f"  {name}: {{servers: ['https://{LOOPBACK}:{port}'], tls: {{{checks}}}}}\n"
            routes += f"- {{match: {{path: /{name}}}, upstream: {name}}}\n"
        file = directory / "ratelimitd.yaml"
        file.write_text(f"workers: 1\ntimeouts: {{connect: 1s}}\nupstreams:\n{upstreams}routes:\n{routes}")
        self.daemon = Daemon(directory, ["-c", str(file)])
        stack.callback(self.daemon.stop)
        self.daemon.wait_ready()

    def client(self) -> Client:
        return Client(self.daemon.port)


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Before]:
    with contextlib.ExitStack() as stack:
        before = Before(tmp_path_factory.mktemp("daemon"), stack)
        yield before
        before.daemon.finish()


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.said])
def test_a_server_that_is_trusted_is_asked(before: Before, name: str) -> None:
    server = before.servers[name]
    server.clear()
    versions = []

    def script(connection: Connection, head: bytes) -> None:
        assert isinstance(connection.sock, ssl.SSLSocket)
        versions.append((connection.sock.selected_alpn_protocol(), connection.sock.version()))
        size = len(connection.read_body(head))
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))

    server.script = script
    body = bytes(range(256)) * 4096
    with before.client() as client:
        assert client.ask(get(f"/{name}")).status == 200
        assert client.ask(post(body, target=f"/{name}")).body == bytes(len(body))
    assert server.requests[1].endswith(body)
    assert len(server.connections) == 1, "it is kept"
    assert versions == [("http/1.1", "TLSv1.3")] * 2


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.said])
def test_one_that_is_not_is_not_asked_and_that_is_said(before: Before, name: str) -> None:
    if name == "plain":
        before.servers[name].greet = lambda connection: connection.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with before.client() as client:
        assert client.ask(get(f"/{name}")).status == 502

    def line() -> str | None:
        lines = before.daemon.stderr.splitlines()
        return next((line for line in lines if f"of upstream {name} cannot be reached" in line), None)

    assert CASES[name].said in wait_until(line, f"the log speaks of {name}: {before.daemon.stderr}")
    assert name == "silent" or b"GET" not in before.servers[name].received


def test_a_session_is_resumed(before: Before) -> None:
    server = before.servers["trusted"]
    server.clear()
    resumed = []

    def greet(connection: Connection) -> None:
        assert isinstance(connection.sock, ssl.SSLSocket)
        resumed.append(connection.sock.session_reused)

    server.greet = greet
    server.script = answering(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    with before.client() as client:
        for _ in range(3):
            assert client.ask(get("/trusted")).status == 200
    assert resumed[1:] == [True, True]


def test_an_answer_that_only_the_end_delimits_is_cut_without_a_close_notify(before: Before) -> None:
    """Anybody on the way can end a TCP connection: without TLS's own end it is not known whether all came."""
    answer = b"HTTP/1.1 200 OK\r\n\r\nall of it"
    server = before.servers["trusted"]
    server.clear()

    def announced(connection: Connection, _: bytes) -> None:
        connection.send(answer)
        assert isinstance(connection.sock, ssl.SSLSocket)
        with contextlib.suppress(OSError):
            connection.sock.unwrap()
        connection.close()

    server.script = announced
    with before.client() as client:
        assert client.ask(get("/trusted")).body == b"all of it"
    server.script = answering_then_closing(answer)
    with before.client() as client, pytest.raises(ConnectionResetError):
        client.ask(get("/trusted"))
