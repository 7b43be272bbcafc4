"""How requests get to the web servers of a daemon: shares, bounds over all workers, who waits, retries."""

from __future__ import annotations

import collections
import contextlib
import os
import re
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import Daemon
from tests.proxy.recording import Connection, Recording, answer_ok, values
from tests.proxy.talking import Answer, Client, get, post
from tests.servers import LOOPBACK, wait_until


@contextlib.contextmanager
def serving(
    directory: Path, servers: str, settings: str = "", more: str = "", workers: int = 1
) -> Iterator[Daemon]:
    configuration = directory / "ratelimitd.yaml"
    configuration.write_text(
        f"upstreams: {{web: {{servers: [{servers}], keepalive_idle: 1m{settings}}}}}\n{more}"
    )
    daemon = Daemon(directory, ["-c", str(configuration)], workers=workers)
    try:
        daemon.wait_ready()
        yield daemon
        daemon.finish()
    finally:
        daemon.stop()


@pytest.fixture
def servers() -> Iterator[list[Recording]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Recording()) for _ in range(3)]


class Gate:
    """A script that keeps each request until it is let go, and knows how many it has at once."""

    def __init__(self, server: Recording) -> None:
        self._server = server
        self._open = threading.Semaphore(0)
        self._lock = threading.Lock()
        self.here = self.most = 0
        server.script = self.script

    def script(self, connection: Connection, head: bytes) -> None:
        with self._lock:
            self.here += 1
            self.most = max(self.most, self.here)
        assert self._open.acquire(timeout=20)
        with self._lock:
            self.here -= 1
        answer_ok(connection, head)

    def let_go(self, count: int = 1) -> None:
        self._open.release(count)

    def wait_here(self, count: int) -> None:
        wait_until(lambda: self.here == count, f"{count} requests are here")

    def targets(self) -> list[str]:
        """In the order in which they came."""
        return [request.split(b" ", 2)[1].decode() for request in self._server.requests]


def in_flight(daemon: Daemon) -> float:
    return daemon.metrics().total("ratelimitd_upstream_inflight")


def active(daemon: Daemon) -> float:
    return daemon.metrics().total("ratelimitd_connections", state="active")


def wait_active(daemon: Daemon, count: int) -> None:
    wait_until(lambda: active(daemon) == count, f"{count} requests are in work")


def ended(daemon: Daemon, outcome: str) -> float:
    return daemon.metrics().total("ratelimitd_requests_total", outcome=outcome)


def leave(client: Client) -> None:
    """With a reset: one that only closes its side may still read the answer."""
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.sock.close()


def is_shed(answer: Answer) -> bool:
    assert answer.status == 429
    assert 1 <= int(answer["retry-after"]) <= 30
    return True


# --- shares


def test_weights_are_exact_in_turn(servers: list[Recording], tmp_path: Path) -> None:
    listed = ", ".join(
        f"{{url: {server.url}, weight: {n}}}" for n, server in zip((5, 2, 1), servers, strict=True)
    )
    with serving(tmp_path, listed, ", balance: round_robin") as daemon, Client(daemon.port) as client:
        for _ in range(40):
            assert client.ask(get()).status == 200
        assert [len(server.requests) for server in servers] == [25, 10, 5]


def test_a_client_stays_with_its_server(servers: list[Recording], tmp_path: Path) -> None:
    listed = ", ".join(server.url for server in servers)
    trusting = "clients: {trusted_proxies: [127.0.0.0/8]}\n"
    with (
        serving(tmp_path, listed, ", balance: client", trusting) as daemon,
        Client(daemon.port) as client,
    ):
        for _ in range(3):
            for n in range(30):
                assert client.ask(get("/", f"X-Forwarded-For: 192.0.2.{n}")).status == 200
        asked = [
            collections.Counter(values(request, "x-forwarded-for")[0] for request in server.requests)
            for server in servers
        ]
        assert all(3 <= len(clients) <= 20 and set(clients.values()) == {3} for clients in asked), asked
        assert sum(len(clients) for clients in asked) == 30


# --- bounds and the queue


def test_requests_beyond_the_concurrency_wait_and_are_served(
    servers: list[Recording], tmp_path: Path
) -> None:
    gate = Gate(servers[0])
    with (
        serving(tmp_path, servers[0].url, ", concurrency: 2, queue: {wait: 20s}", workers=2) as daemon,
        contextlib.ExitStack() as stack,
    ):
        clients = [stack.enter_context(Client(daemon.port)) for _ in range(12)]
        for n, client in enumerate(clients):
            client.send(get(f"/{n}"))
        gate.wait_here(2)
        gate.let_go(12)
        assert [client.answer().status for client in clients] == [200] * 12
        assert gate.most == 2


def test_who_waits_too_long_is_shed(servers: list[Recording], tmp_path: Path) -> None:
    gate = Gate(servers[0])
    with (
        serving(tmp_path, servers[0].url, ", concurrency: 1, queue: {wait: 150ms}") as daemon,
        Client(daemon.port) as first,
        Client(daemon.port) as second,
    ):
        first.send(get("/first"))
        gate.wait_here(1)
        began_s = time.monotonic()
        for request in (get("/2"), post(b"hello"), get("/3", "Accept: text/plain")):
            answer = second.ask(request)
            assert is_shed(answer)
        assert answer["content-type"].startswith("text/plain")
        assert time.monotonic() - began_s > 0.3
        gate.let_go()
        assert first.answer().status == 200
        gate.let_go()
        assert second.ask(get("/later")).status == 200
        assert gate.targets() == ["/first", "/later"]
        assert ended(daemon, "shed") == 3


def test_a_full_queue_sheds_at_once_and_the_lowest_priority_first(
    servers: list[Recording], tmp_path: Path
) -> None:
    gate = Gate(servers[0])
    routes = (
        "routes:\n"
        "  - {match: {path: /critical/*}, upstream: web, priority: critical}\n"
        "  - {match: {path: /sheddable/*}, upstream: web, priority: sheddable}\n"
        "  - {upstream: web}\n"
        "shedding: {status: 503}\n"
    )
    with (
        serving(tmp_path, servers[0].url, ", concurrency: 1, queue: {size: 2, wait: 20s}", routes) as daemon,
        contextlib.ExitStack() as stack,
    ):
        targets = ["/x", "/sheddable/1", "/1", "/2", "/critical/1", "/critical/2", "/critical/3"]
        clients = {target: stack.enter_context(Client(daemon.port)) for target in targets}
        clients["/x"].send(get("/x"))
        gate.wait_here(1)
        waiting = 0
        # /sheddable/1 and /1 wait; /2 takes the place of the first, then the critical ones those of all.
        for given, shed in (
            ("/sheddable/1", None),
            ("/1", None),
            ("/2", "/sheddable/1"),
            ("/critical/1", "/1"),
            ("/critical/2", "/2"),
            ("/critical/3", "/critical/3"),
        ):
            clients[given].send(get(given))
            if shed:
                assert clients[shed].answer().status == 503
            else:
                waiting += 1
                wait_active(daemon, waiting + 1)  # what is sent next must be read after it
        gate.let_go(3)
        for target in ("/x", "/critical/1", "/critical/2"):
            assert clients[target].answer().status == 200
        assert gate.targets() == ["/x", "/critical/1", "/critical/2"]


def test_who_leaves_the_queue_is_not_asked_for(servers: list[Recording], tmp_path: Path) -> None:
    gate = Gate(servers[0])
    with (
        serving(tmp_path, servers[0].url, ", concurrency: 1, queue: {wait: 20s}") as daemon,
        Client(daemon.port) as first,
        Client(daemon.port) as third,
    ):
        first.send(get("/first"))
        gate.wait_here(1)
        with Client(daemon.port) as second:
            second.send(get("/second"))
            third.send(get("/third"))
            wait_active(daemon, 3)
            leave(second)
        wait_until(lambda: ended(daemon, "client_gone") == 1, "it left")
        gate.let_go(2)
        assert first.answer().status == third.answer().status == 200
        assert gate.targets() == ["/first", "/third"]


def test_a_request_whose_client_left_holds_its_place_until_the_server_is_done(
    servers: list[Recording], tmp_path: Path
) -> None:
    gate = Gate(servers[0])
    with (
        serving(tmp_path, servers[0].url, ", concurrency: 1, queue: {wait: 20s}") as daemon,
        Client(daemon.port) as second,
    ):
        with Client(daemon.port) as first:
            first.send(get("/first"))
            gate.wait_here(1)
            leave(first)
        wait_until(lambda: ended(daemon, "client_gone") == 1, "it left")
        second.send(get("/second"))
        assert in_flight(daemon) == 1
        assert not servers[0].connections[0].ended.is_set()
        assert gate.targets() == ["/first"]
        gate.let_go(2)
        assert second.answer().status == 200
        assert servers[0].connections[0].ended.wait(5), "its connection ends with the head of the answer"
        assert gate.most == 1


def test_a_request_that_was_not_sent_whole_frees_its_place_at_once(
    servers: list[Recording], tmp_path: Path
) -> None:
    with (
        serving(tmp_path, servers[0].url, ", concurrency: 1, queue: {wait: 20s}") as daemon,
        Client(daemon.port) as second,
    ):
        with Client(daemon.port) as first:
            first.send(post(bytes(200_000))[:100_000])
            servers[0].wait_requests(1)
        assert second.ask(get()).status == 200


def test_without_a_bound_the_server_learns_at_once_that_the_client_left(
    servers: list[Recording], tmp_path: Path
) -> None:
    gate = Gate(servers[0])
    with serving(tmp_path, servers[0].url) as daemon:
        with Client(daemon.port) as first:
            first.send(get("/first"))
            gate.wait_here(1)
            leave(first)
        with contextlib.suppress(ConnectionResetError):
            assert servers[0].connections[0].sock.recv(1) == b""
        gate.let_go()
        wait_until(lambda: in_flight(daemon) == 0, "nothing is in flight")


def test_a_killed_worker_leaves_no_place_taken(servers: list[Recording], tmp_path: Path) -> None:
    gate = Gate(servers[0])
    with (
        serving(tmp_path, servers[0].url, ", concurrency: 3, queue: {wait: 20s}", workers=2) as daemon,
        contextlib.ExitStack() as stack,
    ):
        for n in range(8):
            stack.enter_context(Client(daemon.port)).send(get(f"/{n}"))
        gate.wait_here(3)
        before = daemon.workers()
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(set(daemon.workers()) - set(before)) == 2, "there are new workers")
        daemon.wait_ready()
        gate.let_go(100)
        wait_until(lambda: gate.here == 0, "the server is done")
        gate.most = 0
        gate = Gate(servers[0])
        clients = [stack.enter_context(Client(daemon.port)) for _ in range(3)]
        for client in clients:
            client.send(get("/after"))
        gate.wait_here(3)
        gate.let_go(3)
        assert [client.answer().status for client in clients] == [200] * 3


@pytest.mark.parametrize("workers", [1, 2])
def test_no_more_connections_to_a_server_than_it_may_have(
    servers: list[Recording], tmp_path: Path, workers: int
) -> None:
    """Those that lie idle count too; a worker that has some gives them up for one that has none."""
    most = [0]
    server = servers[0]

    def count() -> None:
        most[0] = max(most[0], sum(map(is_open, list(server.connections))))

    def script(connection: Connection, head: bytes) -> None:
        count()
        time.sleep(0.002)
        answer_ok(connection, head)

    server.script = script
    listed = f"{{url: {server.url}, max_connections: 3}}"
    with serving(tmp_path, listed, ", queue: {wait: 20s}", workers=workers) as daemon:
        failures: list[int] = []

        def ask() -> None:
            for _ in range(10):
                with Client(daemon.port) as client:
                    failures.extend({client.ask(get()).status for _ in range(5)} - {200})

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert 2 <= most[0] <= 3


# --- other servers


def is_open(connection: Connection) -> bool:
    """Whether the daemon has not closed it, whatever the server's thread knows of that."""
    with contextlib.suppress(OSError, ValueError):  # its thread closes it just now
        readable, _, _ = select.select([connection.sock], [], [], 0)
        return not readable or connection.sock.recv(1, socket.MSG_PEEK) != b""
    return False


def nobody() -> socket.socket:
    """Bound, but nobody listens."""
    reserved = socket.socket()
    reserved.bind((LOOPBACK, 0))
    return reserved


def test_retries_keep_to_their_budget(servers: list[Recording], tmp_path: Path) -> None:
    with nobody() as reserved:
        listed = f"http://{LOOPBACK}:{reserved.getsockname()[1]}, {servers[0].url}"
        settings = ", balance: round_robin, eject: {failures: 10000, for: 1s}, retry: {budget: 10%}"
        with serving(tmp_path, listed, settings) as daemon, Client(daemon.port) as client:
            statuses = collections.Counter(client.ask(get()).status for _ in range(200))
    # A hundred find nobody; a tenth of the 199 so far and five are tried again.
    assert statuses == {200: 124, 502: 76}


def test_without_attempts_nobody_is_tried_again(servers: list[Recording], tmp_path: Path) -> None:
    with nobody() as reserved:
        listed = f"http://{LOOPBACK}:{reserved.getsockname()[1]}, {servers[0].url}"
        settings = ", balance: round_robin, eject: {failures: 10000, for: 1s}, retry: {attempts: 0}"
        with serving(tmp_path, listed, settings) as daemon, Client(daemon.port) as client:
            assert [client.ask(get()).status for _ in range(4)] == [502, 200, 502, 200]


def test_a_server_is_ejected_for_all_workers_and_tried_by_one_request(
    servers: list[Recording], tmp_path: Path
) -> None:
    flaky, good = servers[:2]
    broken = threading.Event()
    broken.set()

    def script(connection: Connection, head: bytes) -> None:
        if broken.is_set():
            connection.close()
        answer_ok(connection, head)

    flaky.script = script
    settings = ", balance: round_robin, eject: {failures: 4, for: 400ms}, retry: {attempts: 0}"
    with serving(tmp_path, f"{flaky.url}, {good.url}", settings, workers=2) as daemon:

        def ask(count: int) -> collections.Counter[int]:
            statuses: collections.Counter[int] = collections.Counter()
            for _ in range(count):
                with Client(daemon.port) as client:
                    statuses[client.ask(get()).status] += 1
            return statuses

        assert ask(30)[502] == 4, "each worker by itself would take four"
        asked = len(flaky.requests)
        time.sleep(0.45)
        assert ask(30)[502] == 1, "one tries it, and it is ejected for longer"
        assert len(flaky.requests) == asked + 1
        broken.clear()
        wait_until(lambda: ask(4)[200] == 4 and len(flaky.requests) > asked + 2, "it is asked again")


def test_a_backup_waits_while_a_primary_is_only_full(servers: list[Recording], tmp_path: Path) -> None:
    gate = Gate(servers[0])
    listed = f"{{url: {servers[0].url}, max_connections: 1}}, {{url: {servers[1].url}, backup: true}}"
    with (
        serving(tmp_path, listed, ", queue: {wait: 20s}") as daemon,
        Client(daemon.port) as first,
        Client(daemon.port) as second,
    ):
        first.send(get("/1"))
        gate.wait_here(1)
        second.send(get("/2"))
        gate.let_go(2)
        assert first.answer().status == second.answer().status == 200
        assert servers[1].requests == []
        assert re.findall(r"/\d", "".join(gate.targets())) == ["/1", "/2"]
