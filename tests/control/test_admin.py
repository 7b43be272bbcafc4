"""The admin server, with real clients: what is answered, to whom, and what is refused."""

from __future__ import annotations

import http.client
import re
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

import ratelimitd
from ratelimitd.config.model import Admin, Limit, Rate
from tests.control.daemon import Daemon, config, daemon

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from prometheus_client import Metric

parse_openmetrics: Callable[[str], Iterable[Metric]] = openmetrics.text_string_to_metric_families


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    path = tmp_path_factory.mktemp("admin") / "admin.sock"
    limit = Limit("per-client", per=("client",), rates=(Rate(100, 10_000_000), Rate(5, 1_000_000)))
    admin = Admin(host="127.0.0.1", port=0, required=True, socket=str(path))
    with daemon(config(admin=admin, limits=(limit,))) as started:
        started.until_admin()
        yield started


def raw(server: Daemon, data: bytes) -> bytes:
    """The whole answer to bytes that no client library would send."""
    with socket.create_connection(("127.0.0.1", server.admin_port), 10) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
        return answer


def test_pages(server: Daemon) -> None:
    assert server.get("/healthz") == (200, "text/plain; charset=utf-8", "ok\n")
    assert server.get("/readyz?verbose=1") == (200, "text/plain; charset=utf-8", "ready\n")
    assert server.get("/nowhere")[0] == 404


def test_metrics_as_text(server: Daemon) -> None:
    server.ask()
    status, content_type, body = server.get("/metrics")
    assert (status, content_type) == (200, "text/plain; version=0.0.4; charset=utf-8")
    samples = {
        (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
        for family in parse_text(body)
        for sample in family.samples
    }
    assert samples["ratelimitd_requests_total", "127.0.0.1:0", "forwarded"] >= 1
    assert samples["ratelimitd_workers",] == 2
    assert samples["ratelimitd_build_info", ratelimitd.__version__] == 1
    assert samples["ratelimitd_worker_restarts_total",] == 0
    assert samples["ratelimitd_limit_keys", "per-client"] == 0
    assert samples["ratelimitd_limit_decisions_total", "limited", "per-client"] == 0
    assert samples["ratelimitd_table_entries",] == 0
    assert samples["ratelimitd_table_evictions_total",] == 0
    assert samples["ratelimitd_shed_level",] == 0
    assert samples["ratelimitd_loop_lag_seconds", "0"] == 0.0015
    assert samples["ratelimitd_config_last_reload_successful",] == 1
    assert samples["ratelimitd_config_reloads_total", "refused"] == 0
    assert samples["ratelimitd_upstream_requests_total", "5xx", "http://127.0.0.1:9", "web"] == 0


def test_metrics_as_openmetrics(server: Daemon) -> None:
    _, content_type, body = server.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert {family.name for family in parse_openmetrics(body)} >= {
        "ratelimitd_requests",
        "ratelimitd_workers",
    }


@pytest.mark.parametrize(
    "accept", ["", "*/*", "text/html", ";;", "application/openmetrics-text;version=x", "é"]
)
def test_an_odd_accept_gets_metrics(server: Daemon, accept: str) -> None:
    status, _, body = server.get("/metrics", Accept=accept)
    assert status == 200
    assert "ratelimitd_workers" in body


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:10429"])
def test_hosts_that_are_ours(server: Daemon, host: str) -> None:
    assert server.get("/healthz", Host=host)[0] == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:10429", "127.0.0.1.evil.example", "[::1]", "0.0.0.0", "", "127.0.0.2"],
)
def test_hosts_that_are_not(server: Daemon, host: str) -> None:
    status, _, body = server.get("/metrics", Host=host)
    assert status == 421
    assert "localhost" in body
    assert "ratelimitd_" not in body


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /healthz HTTP/1.1\r\n\r\n", 421),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", 421),
        (b"POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x00\xf4\r\n\r\n", 400),
        (b"CONNECT localhost:1 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET http://localhost/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", 431),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /metrics HTTP/1.1\r\n\r\n", 200),
    ],
)
def test_requests_at_the_edge(server: Daemon, request_bytes: bytes, status: int) -> None:
    answer = raw(server, request_bytes)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert answer.count(b"HTTP/1.1 ") == 1


def test_head_has_the_length_and_no_body(server: Daemon) -> None:
    answer = raw(server, b"HEAD /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert b"\r\nContent-Length: 3\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


def test_a_client_that_says_nothing_is_closed_in_silence(server: Daemon) -> None:
    assert raw(server, b"") == b""
    assert raw(server, b"GET /hea") == b""


def test_many_silent_clients_do_not_keep_others_out_for_long(server: Daemon) -> None:
    silent = [socket.create_connection(("127.0.0.1", server.admin_port), 10) for _ in range(64)]
    for connection in silent:
        connection.sendall(b"GET /healthz HTTP/1.1\r\n")
    assert silent[-1].recv(100).startswith(b"HTTP/1.1 408 ")  # after 5 s
    for connection in silent:
        connection.close()
    assert server.get("/healthz")[0] == 200


def test_the_unix_socket(server: Daemon) -> None:
    path = Path(next(found[1] for line in server.lines if (found := re.search(r"unix:(\S+)", line))))
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    connection = http.client.HTTPConnection("any.example")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    connection.request("GET", "/readyz")
    assert connection.getresponse().read() == b"ready\n"
    connection.close()
