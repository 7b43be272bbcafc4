"""What may happen to a client while its request waits for the store: nothing that would not happen without.

The replies of a real store are held back until a test lets them go, so a request waits for as long as it
takes: to send more, to leave, to drain, to reload. Each answer is the one to its own request.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.daemon import Daemon
from tests.proxy.recording import Connection, Recording
from tests.proxy.talking import Client, get, post
from tests.proxy.test_client import MIB, resident_kib
from tests.proxy.tls_talking import TlsClient, trusting
from tests.redis_servers import Redis
from tests.servers import LOOPBACK, free_port, wait_until
from tests.store_proxy import StoreProxy

NAME = "a.example"
FILE = """
workers: 1
listen: [{{bind: "{host}:{port}"}}, {{bind: "{host}:{tls_port}", tls: {pair}}}]
upstreams: {{web: {{servers: ["{url}"], keepalive_idle: 1m}}}}
store: "{store}"
store_options: {{deadline: 10s, entries: 40k}}
limits: [{limits}]
log: {{access: none}}
"""
WIDE = "{name: wide, per: path, rate: 1000/10s}"
NARROW = "{name: narrow, per: path, rate: 1/1m, match: {path: /narrow*}}"


@dataclasses.dataclass
class Sharing:
    """A daemon that asks the store by a way that tests hold up."""

    daemon: Daemon
    way: StoreProxy
    file: Path
    text: str
    tls_port: int
    authority: Path

    def plain(self) -> Client:
        return Client(self.daemon.port)

    def tls(self) -> Client:
        return TlsClient(self.tls_port, trusting(self.authority), NAME)

    def wait_active(self, count: int) -> None:
        def active() -> float:
            return self.daemon.metrics().total("ratelimitd_connections", state="active")

        wait_until(lambda: active() == count, f"{count} requests wait")

    def outcome(self, outcome: str) -> float:
        return self.daemon.settled_metrics().total("ratelimitd_requests_total", outcome=outcome)


@contextlib.contextmanager
def sharing(directory: Path, url: str) -> Iterator[Sharing]:
    authority = Authority(directory)
    file, port, tls_port = directory / "ratelimitd.yaml", free_port(), free_port()
    with Redis(directory / "redis") as redis, StoreProxy(redis.port) as way:
        text = FILE.format(
            host=LOOPBACK,
            port=port,
            tls_port=tls_port,
            pair=authority.issue(NAME).yaml,
            url=url,
            store=way.url,
            limits="{limits}",
        )
        file.write_text(text.replace("{limits}", f"{WIDE}, {NARROW}"))
        daemon = Daemon(directory, ["-c", str(file)], port=port, listens_by_file=True)
        try:
            daemon.wait_ready()
            wait_until(lambda: daemon.metrics().total("ratelimitd_store_up") == 1, "the store is up")
            yield Sharing(daemon, way, file, text, tls_port, authority.file)
            way.let_go()
            daemon.finish()
        finally:
            daemon.stop()


@pytest.fixture(scope="module")
def recording() -> Iterator[Recording]:
    with Recording() as server:
        yield server


@pytest.fixture(scope="module")
def shared(recording: Recording, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sharing]:
    with sharing(tmp_path_factory.mktemp("shared"), recording.url) as shared:
        yield shared


@pytest.fixture
def upstream(recording: Recording) -> Recording:
    recording.clear()
    recording.script = tell_target
    return recording


@pytest.fixture
def held(shared: Sharing, upstream: Recording) -> Iterator[Sharing]:
    """No request of a new path passes before `way.let_go`."""
    assert upstream.received == b""
    shared.way.hold_replies()
    yield shared
    shared.way.let_go()
    wait_until(lambda: shared.daemon.metrics().total("ratelimitd_connections") == 0, "nobody is left")


def tell_target(connection: Connection, head: bytes) -> None:
    """Answers with what was asked for, and how large its body was."""
    body = connection.read_body(head)
    told = head.split(b" ")[1] + b" %d" % len(body)
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(told))
    if not head.startswith(b"HEAD"):
        connection.send(told)


SIDES = pytest.mark.parametrize("connect", [Sharing.plain, Sharing.tls], ids=["plain", "tls"])


@SIDES
def test_what_was_asked_ahead_is_answered_in_order(
    held: Sharing, upstream: Recording, connect: Callable[[Sharing], Client]
) -> None:
    name = connect.__name__
    with connect(held) as one, connect(held) as other:
        one.send(get(f"/{name}/1") + post(b"hello", target=f"/{name}/2") + get(f"/{name}/3"))
        other.send(get(f"/{name}/other", method="HEAD") + get(f"/{name}/other"))
        held.wait_active(2)
        assert upstream.received == b""
        held.way.let_go()
        assert [one.answer().body for _ in range(3)] == [
            f"/{name}/{n}".encode() for n in ("1 0", "2 5", "3 0")
        ]
        assert other.answer(head_only=True).status == 200
        assert other.answer().body == f"/{name}/other 0".encode()


@pytest.mark.parametrize("size", [1_000, 50_000, 3_000_000])
@SIDES
def test_a_body_that_comes_meanwhile(
    held: Sharing, upstream: Recording, connect: Callable[[Sharing], Client], size: int
) -> None:
    """Whole, told by a length or in chunks; what follows it is read as the next request."""
    path = f"/body/{connect.__name__}/{size}"
    chunks = get(path + "/c", "Transfer-Encoding: chunked", method="PUT")
    chunks += b"%x\r\n" % size + bytes(size) + b"\r\n0\r\n\r\n"
    requests = post(bytes(size), target=path) + chunks + get(path + "/next")
    with connect(held) as client:
        client.send(requests[:200])
        held.wait_active(1)
        client.sock.settimeout(0.2)
        at = 200
        with contextlib.suppress(TimeoutError):
            while at < len(requests):
                at += client.sock.send(requests[at : at + 16_384])
        assert upstream.received == b""
        client.sock.settimeout(20)
        held.way.let_go()
        client.send(requests[at:])
        assert [client.answer().body for _ in range(3)] == [
            f"{path} {size}".encode(),
            f"{path}/c {size}".encode(),
            f"{path}/next 0".encode(),
        ]


@SIDES
def test_a_client_that_has_closed_its_side(
    held: Sharing, upstream: Recording, connect: Callable[[Sharing], Client]
) -> None:
    """A whole request is answered, part of one is none."""
    name, gone = connect.__name__, held.outcome("client_gone")
    with connect(held) as whole, connect(held) as part:
        whole.send(get(f"/ended/{name}"))
        part.send(post(b"hello", target=f"/part/{name}")[:-1])
        held.wait_active(2)
        if name == "plain":
            whole.end()
            part.end()
            held.way.let_go()
            assert part.answer().status == 400
        else:
            part.sock.close()
            held.way.let_go()
        assert whole.answer().body == f"/ended/{name} 0".encode()
        if name == "plain":
            assert whole.is_closed()
            assert part.is_closed()
    assert held.outcome("client_gone") == gone + 1
    assert [request.split(b" ")[1] for request in upstream.requests] == [f"/ended/{name}".encode()]


def test_one_that_leaves_takes_nothing_along(held: Sharing, upstream: Recording) -> None:
    """With a reset; who waits for the same key is served, and so is who comes next."""
    with Client(held.daemon.port) as other:
        for path in ("/left", "/left", "/left/other"):
            leaving = Client(held.daemon.port)
            leaving.send(post(b"x" * 100_000, target=path)[:50_000])
            leaving.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            held.wait_active(1)
            leaving.sock.close()
            held.way.let_go()
            held.wait_active(0)
            held.way.hold_replies()
        other.send(get("/left/next"))
        held.wait_active(1)
        held.way.let_go()
        assert other.answer().body == b"/left/next 0"
        assert other.ask(get("/left")).body == b"/left 0"
    assert all(not request.endswith(b"x" * 50_001) for request in upstream.requests)


def test_an_upgrade(held: Sharing, upstream: Recording) -> None:
    """What comes early goes up behind the 101 alone."""

    def script(connection: Connection, head: bytes) -> None:
        assert b"Upgrade: echo\r\n" in head
        connection.sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.sock.recv(10)
        connection.sock.settimeout(10)
        connection.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        connection.send(connection.sock.recv(5))

    upstream.script = script
    with held.plain() as client:
        client.send(get("/tunnel", "Connection: upgrade", "Upgrade: echo"))
        held.wait_active(1)
        client.send(b"early")
        held.way.let_go()
        assert client.answer().status == 101
        assert client.take(5) == b"early"


def test_an_expectation(held: Sharing, upstream: Recording) -> None:
    def script(connection: Connection, head: bytes) -> None:
        connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        tell_target(connection, head)

    upstream.script = script
    with held.plain() as client:
        client.send(get("/expect", "Content-Length: 5", "Expect: 100-continue", method="POST"))
        held.wait_active(1)
        client.sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.sock.recv(10)
        client.sock.settimeout(10)
        held.way.let_go()
        assert client.answer().status == 100
        assert client.ask(b"hello").body == b"/expect 5"


def test_connect_and_what_is_malformed_do_not_wait(held: Sharing, upstream: Recording) -> None:
    with held.plain() as one, held.plain() as other:
        assert one.ask(b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n").status == 405
        assert other.ask(b"GET /x HTTP/1.1\r\nHost: a\r\nA b: c\r\n\r\n").status == 400
    assert upstream.received == b""


def test_a_refusal_and_the_body_that_nobody_wants(held: Sharing, upstream: Recording) -> None:
    """Two wait for one unit. Whoever goes without, its next request begins at the right byte."""
    body = get("/narrow/smuggled") * 20
    with held.plain() as one, held.plain() as other:
        for client in (one, other):
            client.send(post(body, target="/narrow/a")[:-100])
        held.wait_active(2)
        held.way.let_go()
        for client in (one, other):
            client.send(body[-100:] + get("/wide/next"))
        answers = [client.answer() for client in (one, other)]
        assert sorted(answer.status for answer in answers) == [200, 429]
        assert [client.answer().body for client in (one, other)] == [b"/wide/next 0"] * 2
    assert not any(b"GET /narrow/smuggled" in request.partition(b"\r\n")[0] for request in upstream.requests)


def test_a_refusal_of_what_was_not_asked_for(held: Sharing, upstream: Recording) -> None:
    """With an expectation nobody can know whether the body will come: the connection ends."""
    with held.plain() as one, held.plain() as other:
        one.send(get("/narrow/b"))
        held.wait_active(1)
        other.send(get("/narrow/b", "Content-Length: 5", "Expect: 100-continue", method="POST"))
        held.wait_active(2)
        held.way.let_go()
        assert one.answer().body == b"/narrow/b 0"
        answer = other.answer()
        assert (answer.status, answer.closes) == (429, True)
    assert len(upstream.requests) == 1


def test_who_sends_on_is_stopped(held: Sharing) -> None:
    """Each holds its head and one read of the system at most."""
    (worker,) = held.daemon.workers()
    before, came = resident_kib(worker), held.daemon.metrics().total("ratelimitd_bytes_total", direction="in")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(held.plain()) for _ in range(30)]
        ahead = get("/more") * (8 * MIB // len(get("/more")))
        for client in clients:
            client.sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                at = 0
                while at < len(ahead):
                    at += client.sock.send(ahead[at : at + MIB])
        held.wait_active(len(clients))
        came = held.daemon.metrics().total("ratelimitd_bytes_total", direction="in") - came
        assert came < len(clients) * 300_000
        assert resident_kib(worker) - before < len(clients) * 320 + 1_024


def test_the_store_is_lost_meanwhile(held: Sharing) -> None:
    """Who waits is decided by the node alone, at once."""
    with held.plain() as client:
        client.send(get("/lost"))
        held.wait_active(1)
        held.way.cut()
        held.way.let_go()
        assert client.answer().body == b"/lost 0"
    wait_until(lambda: held.daemon.metrics().total("ratelimitd_store_up") == 1, "the store is up")


def test_a_reload_that_drops_the_limit_and_then_the_end(tmp_path: Path, upstream: Recording) -> None:
    """Who waits is answered by the limits that it met; who waits when it drains, and then nothing more."""
    with sharing(tmp_path, upstream.url) as shared:
        reloads = "ratelimitd_config_reloads_total"
        shared.way.hold_replies()
        with shared.plain() as client, shared.plain() as idle:
            client.send(get("/narrow/1"))
            shared.wait_active(1)
            shared.file.write_text(shared.text.replace("{limits}", WIDE))
            shared.daemon.send(signal.SIGHUP)
            wait_until(
                lambda: shared.daemon.metrics().total(reloads, result="success") == 1, "the reload is done"
            )
            shared.way.let_go()
            answer = client.answer()
            assert (answer.status, answer["ratelimit"]) == (200, '"narrow";r=0;t=60')
            assert client.ask(get("/narrow/1")).status == 200
            assert idle.ask(get("/narrow/1")).status == 200
            shared.way.hold_replies()
            client.send(get("/drained") + get("/never"))
            shared.wait_active(1)
            shared.daemon.send(signal.SIGTERM)
            assert idle.is_closed(), "the worker drains"
            shared.way.let_go()
            answer = client.answer()
            assert (answer.body, answer.closes) == (b"/drained 0", True)
            assert client.is_closed()
        assert shared.daemon.wait() == 0
