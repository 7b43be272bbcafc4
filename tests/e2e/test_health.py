"""Active health checks of a running daemon: a server that is switched, told by every way there is, and 503 at
once when there is none left."""

from __future__ import annotations

import contextlib
import signal
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.daemon import Daemon
from tests.proxy.recording import Connection, Recording, answer_ok, answering, values
from tests.proxy.talking import Client, get
from tests.servers import LOOPBACK, Nginx, free_port, wait_until

HEALTH = "health: {path: /healthz?a, interval: 100ms, timeout: 100ms, rise: 2, fall: 3}"


class Switched:
    """A server whose health is what the test says; it serves whatever its health is."""

    def __init__(self, server: Recording) -> None:
        self.server = server
        self.answer = b"HTTP/1.1 204 No Content\r\n\r\n"
        self.checks: list[bytes] = []
        self.served = 0
        server.script = self.script

    def script(self, connection: Connection, head: bytes) -> None:
        if head.startswith(b"GET /healthz"):
            self.checks.append(head)
            if not self.answer:
                time.sleep(0.3)  # longer than a check waits
            answering(self.answer)(connection, head)
        else:
            self.served += 1
            answer_ok(connection, head)


@pytest.fixture
def servers() -> Iterator[tuple[Switched, Switched]]:
    with Recording() as first, Recording() as second:
        yield Switched(first), Switched(second)


@contextlib.contextmanager
def serving(directory: Path, servers: str, settings: str = HEALTH) -> Iterator[Daemon]:
    configuration = directory / "ratelimitd.yaml"
    configuration.write_text(f"upstreams: {{web: {{servers: [{servers}], {settings}}}}}\n")
    daemon = Daemon(directory, ["-c", str(configuration)], workers=2)
    try:
        daemon.wait_ready()
        yield daemon
        daemon.finish()
    finally:
        daemon.stop()


def up(daemon: Daemon) -> float:
    return daemon.metrics().total("ratelimitd_upstream_up")


def test_a_server_that_is_not_well_gets_nothing_until_it_is(
    servers: tuple[Switched, Switched], tmp_path: Path
) -> None:
    first, second = servers
    with serving(tmp_path, f"{first.server.url}, {second.server.url}") as daemon:
        with Client(daemon.port) as client:
            for bad in (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", b"220 hello\r\n\r\n", b""):
                first.answer = bad
                wait_until(lambda: up(daemon) == 1, f"it is down for {bad!r}")
                before = first.served
                assert [client.ask(get()).status for _ in range(20)] == [200] * 20
                assert first.served == before
                first.answer = b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"
                wait_until(lambda: up(daemon) == 2, "it is up")
                assert [client.ask(get()).status for _ in range(20)] == [200] * 20
                assert first.served > before
        lines = [line for line in daemon.stderr.splitlines() if "health checks" in line]
        assert [line.partition("health checks: ")[2].partition(";")[0] for line in lines] == [
            "404 for /healthz?a",
            "the answer to /healthz?a is no HTTP",
            "no answer to /healthz?a within 100ms",
        ]
        assert len([line for line in daemon.stderr.splitlines() if "answers again" in line]) == 3
    head = first.checks[0]
    assert head.startswith(b"GET /healthz?a HTTP/1.1\r\n")
    assert values(head, "host") == [f"{LOOPBACK}:{first.server.port}"]
    assert values(head, "user-agent") == ["ratelimitd-health"]


def test_one_bad_check_is_none(servers: tuple[Switched, Switched], tmp_path: Path) -> None:
    first, _ = servers

    def script(connection: Connection, head: bytes) -> None:
        first.checks.append(head)
        status = b"200 OK" if len(first.checks) % 3 == 0 else b"500 Oops"
        answering(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")(connection, head)

    first.server.script = script
    with serving(tmp_path, first.server.url) as daemon:
        wait_until(lambda: len(first.checks) > 10, "ten checks")
        assert up(daemon) == 1
        assert "health checks" not in daemon.stderr


def test_all_servers_down_is_503_at_once(tmp_path: Path) -> None:
    urls = [f"http://{LOOPBACK}:{free_port()}" for _ in range(2)]
    with serving(tmp_path, ", ".join(urls)) as daemon:
        wait_until(lambda: daemon.admin("/readyz")[0] == 503, "it is not ready")
        assert "every web server is down" in daemon.admin("/readyz")[1]
        assert daemon.admin("/healthz")[0] == 200
        assert up(daemon) == 0
        with Client(daemon.port) as client:
            began_s = time.monotonic()
            for _ in range(50):
                answer = client.ask(get())
                assert answer.status == 503
                assert int(answer["retry-after"]) >= 1
                assert not answer.closes
            assert time.monotonic() - began_s < 1.0
        with Nginx(tmp_path / "back", int(urls[1].rpartition(":")[2])):
            daemon.wait_ready()
            with Client(daemon.port) as client:
                assert client.ask(get()).status == 200


def test_a_reload_ends_checks_and_what_they_said(servers: tuple[Switched, Switched], tmp_path: Path) -> None:
    first, second = servers
    first.answer = b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"
    listed = f"{first.server.url}, {second.server.url}"
    with serving(tmp_path, listed) as daemon:
        wait_until(lambda: up(daemon) == 1, "it is down")
        (tmp_path / "ratelimitd.yaml").write_text(f"upstreams: {{web: {{servers: [{listed}]}}}}\n")
        daemon.send(signal.SIGHUP)
        wait_until(lambda: up(daemon) == 2, "nobody says that it is down")
        with Client(daemon.port) as client:
            for _ in range(10):
                assert client.ask(get()).status == 200
        assert first.served == 5


def test_a_server_with_tls_is_checked_as_its_requests_are(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path), Authority(tmp_path, "stranger")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pair = authority.issue("a.example")
    context.load_cert_chain(pair.certificate, pair.key)
    with Recording(tls=context) as server:
        url = f"'https://{LOOPBACK}:{server.port}'"
        with serving(
            tmp_path, url, f"{HEALTH}, tls: {{ca: {authority.file}, server_name: a.example}}"
        ) as daemon:
            wait_until(lambda: len(server.requests) >= 3, "it is asked")
            assert daemon.metrics().total("ratelimitd_upstream_up") == 1
        server.clear()
        with serving(
            tmp_path, url, f"{HEALTH}, tls: {{ca: {stranger.file}, server_name: a.example}}"
        ) as daemon:
            wait_until(lambda: daemon.metrics().total("ratelimitd_upstream_up") == 0, "it counts as down")
            assert "over TLS: certificate verify failed" in daemon.admin("/api/status")[1]
        assert server.received == b""
