"""Everything that a limit can count by, as clients of the running daemon see it."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import StartDaemon
from tests.daemon import Daemon
from tests.servers import LOOPBACK, Nginx, free_port

LIMITS = """
clients: {trusted_proxies: [127.0.0.0/8]}
limits:
  - {name: tiered, per: client, rate: 3/1h, match: {path: /tiered}, overrides: {"198.51.100.9": 5/1h}}
  - {name: strict, per: client, rate: 2/1h, match: {path: /strict}, ban: {after: 3, within: 1h, for: 1h}}
  - {name: cookie, per: "cookie:sid", rate: 2/1h, match: {path: /cookie}, missing: deny}
  - {name: query, per: "query:id", rate: 2/1h, match: {path: /query}, missing: skip}
  - {name: list, per: [host, path, method], rate: 2/1h, match: {path: /list/*}}
  - {name: priced, per: client, rate: 10/1h, match: {path: /priced}, cost: {header: X-Cost, max: 5}}
  - {name: watched, per: client, rate: 1/1h, match: {path: /watched}, action: observe}
  - {name: two-rates, per: client, rate: [2/1h, 100/1d], match: {path: /two}}
"""


@pytest.fixture
def daemon(start_daemon: StartDaemon, nginx: Nginx, tmp_path: Path) -> Daemon:
    path = tmp_path / "ratelimitd.yaml"
    path.write_text(f"upstreams: {{web: {{servers: ['{nginx.url}']}}}}\n{LIMITS}")
    return start_daemon("-c", str(path), workers=2)


class Asker:
    """Asks on fresh connections, so that both workers are asked."""

    def __init__(self, daemon: Daemon) -> None:
        self._port = daemon.port

    def __call__(self, target: str, client: str = "192.0.2.1", method: str = "GET", **fields: str) -> int:
        headers = {"X-Forwarded-For": client} | {
            name.replace("_", "-"): value for name, value in fields.items()
        }
        connection = http.client.HTTPConnection(LOOPBACK, self._port, timeout=10)
        with contextlib.closing(connection):
            connection.request(method, target, headers=headers)
            self.answer = connection.getresponse()
            return self.answer.status


def test_what_a_limit_counts_by(daemon: Daemon) -> None:
    ask = Asker(daemon)
    assert [ask("/tiered") for _ in range(4)] == [200, 200, 200, 429]
    assert [ask("/TIERED/;x", client="198.51.100.9") for _ in range(6)] == [200] * 5 + [429]
    assert ask("/cookie") == 403
    assert [ask("/cookie", Cookie="a=b; sid=1") for _ in range(3)] == [200, 200, 429]
    assert ask("/cookie", Cookie="sid=1; sid=2") == 400
    assert ask("/cookie", Cookie="sid=2") == 200
    assert [ask("/query?id=1") for _ in range(2)] + [ask("/query?x=&i%64=%31")] == [200, 200, 429]
    assert ask("/query?id=1&id=2") == 400
    assert [ask("/query") for _ in range(4)] == [200] * 4
    assert [ask("/list/a"), ask("/LIST//a/"), ask("/list/%61")] == [200, 200, 429]
    assert [ask("/list/b"), ask("/list/a", method="HEAD"), ask("/list/a", Host="other.example")] == [200] * 3
    assert [ask("/priced", X_Cost="9"), ask("/priced", X_Cost="5"), ask("/priced")] == [200, 200, 429]
    assert [ask("/watched") for _ in range(3)] == [200] * 3
    assert [ask("/two") for _ in range(3)] == [200, 200, 429]
    metrics = daemon.settled_metrics()
    decisions = "ratelimitd_limit_decisions_total"
    assert metrics.total(decisions, limit="watched", decision="observed") == 2
    assert metrics.total(decisions, limit="watched", decision="allowed") == 1
    assert metrics.total(decisions, limit="two-rates", decision="allowed") == 2


def test_who_is_refused_too_often_is_denied_for_a_while(daemon: Daemon) -> None:
    ask = Asker(daemon)
    assert [ask("/strict") for _ in range(7)] == [200, 200, 429, 429, 429, 403, 403]
    assert 3_590 <= int(ask.answer.headers["Retry-After"]) <= 3_600, "what is left of the ban"
    assert ask("/strict", client="192.0.2.2") == 200
    metrics = daemon.settled_metrics()
    assert metrics.total("ratelimitd_requests_total", outcome="denied") == 2
    assert metrics.total("ratelimitd_requests_total", outcome="limited") == 3


class Gate:
    """A web server that answers when it is told to."""

    def __init__(self) -> None:
        self.port = free_port()
        self.open = threading.Event()
        self.asked = threading.Semaphore(0)
        self._listener = socket.create_server((LOOPBACK, self.port))
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while connection.recv(65536):
                self.asked.release()
                self.open.wait(20)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    def close(self) -> None:
        self.open.set()
        self._listener.close()


def test_requests_in_flight_are_bounded_over_all_workers(start_daemon: StartDaemon, tmp_path: Path) -> None:
    gate = Gate()
    path = tmp_path / "ratelimitd.yaml"
    path.write_text(
        f"upstreams: {{web: {{servers: ['http://{LOOPBACK}:{gate.port}']}}}}\n"
        "limits: [{name: places, per: client, concurrent: 4}]\n"
    )
    daemon = start_daemon("-c", str(path), workers=2)
    answers: Counter[int] = Counter()
    ask = Asker(daemon)
    waiting = [threading.Thread(target=lambda: answers.update([ask("/")])) for _ in range(4)]
    for thread in waiting:
        thread.start()
    for _ in waiting:
        assert gate.asked.acquire(timeout=10)
    assert [ask("/") for _ in range(5)] == [429] * 5
    gate.open.set()
    for thread in waiting:
        thread.join(10)
    assert answers == {200: 4}
    assert [ask("/") for _ in range(5)] == [200] * 5
    gate.close()


def test_connections_of_one_client_are_bounded_over_all_workers(
    start_daemon: StartDaemon, nginx: Nginx, tmp_path: Path
) -> None:
    path = tmp_path / "ratelimitd.yaml"
    path.write_text(
        f"upstreams: {{web: {{servers: ['{nginx.url}']}}}}\nbounds: {{connections_per_client: 6}}\n"
    )
    daemon = start_daemon("-c", str(path), workers=2)
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection((LOOPBACK, daemon.port), 5)) for _ in range(6)]
        for connection in held:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert connection.recv(12) == b"HTTP/1.1 200"
        with socket.create_connection((LOOPBACK, daemon.port), 5) as one_more:
            with contextlib.suppress(ConnectionResetError):
                assert one_more.recv(1) == b""
    refused = daemon.settled_metrics().total("ratelimitd_connections_refused_total", reason="client")
    assert refused == 1
