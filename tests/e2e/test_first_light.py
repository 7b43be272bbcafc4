"""The promises of the README, kept by the real daemon before real web servers: curl, h2load and wrk.

A limit is exact with one worker and with two; a refusal says when to come back; under load nothing is lost
and every request is counted once.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import json
import re
import subprocess
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.conftest import StartDaemon
from tests.daemon import unshed
from tests.load import h2load, wrk
from tests.servers import ANSWER, LOOPBACK, Gunicorn, Nginx


def curl(*arguments: str) -> tuple[str, dict[str, str], str]:
    """Status line, fields (names in lower case) and body of the answer."""
    command = ["curl", "--silent", "--show-error", "--max-time", "5", "--include", *arguments]
    answer = subprocess.run(command, capture_output=True, check=True).stdout.decode()
    head, _, body = answer.partition("\r\n\r\n")
    status, *lines = head.split("\r\n")
    fields = dict(line.split(": ", 1) for line in lines)
    return status, {name.lower(): value for name, value in fields.items()}, body


def test_curl_gets_the_answer_and_what_is_left_of_its_limit(start_daemon: StartDaemon, nginx: Nginx) -> None:
    daemon = start_daemon("--upstream", nginx.url, "--limit", "100/10s")
    status, fields, body = curl(daemon.url)
    assert status == "HTTP/1.1 200 OK"
    assert body.encode() == ANSWER
    assert fields["ratelimit-policy"] == '"per-client";q=100;w=10'
    assert re.fullmatch(r'"per-client";r=99;t=\d+', fields["ratelimit"])


def test_curl_is_refused_with_all_that_it_needs_to_come_back(start_daemon: StartDaemon, nginx: Nginx) -> None:
    daemon = start_daemon("--upstream", nginx.url, "--limit", "1/10s")
    curl(daemon.url)
    status, fields, body = curl("-H", "Accept: application/json", daemon.url)
    assert status == "HTTP/1.1 429 Too Many Requests"
    assert 1 <= int(fields["retry-after"]) <= 11
    assert fields["ratelimit-policy"] == '"per-client";q=1;w=10'
    assert re.fullmatch(r'"per-client";r=0;t=\d+', fields["ratelimit"])
    assert fields["cache-control"] == "no-store"
    assert {"date", "content-length"} <= fields.keys()
    assert fields["content-type"] == "application/problem+json"
    problem = json.loads(body)
    assert problem["status"] == 429
    assert problem["limit"] == "per-client"
    assert nginx.requests() >= 1
    forwarded = daemon.settled_metrics().total("ratelimitd_requests_total", outcome="forwarded")
    assert forwarded == 1


def test_a_body_goes_up_and_the_answer_comes_down_unchanged(
    start_daemon: StartDaemon, gunicorn: Gunicorn
) -> None:
    daemon = start_daemon("--upstream", gunicorn.url)
    sent = bytes(range(256)) * 800  # 200 KiB, more than is read before a server is chosen
    connection = HTTPConnection(LOOPBACK, daemon.port, timeout=10)
    with contextlib.closing(connection):
        connection.request("POST", "/form?a=1&b=%20", body=sent, headers={"X-Plan": "gold"})
        answer = connection.getresponse()
        seen = json.loads(answer.read())
        assert answer.status == 200
        assert (seen["method"], seen["target"]) == ("POST", "/form?a=1&b=%20")
        assert (seen["size"], seen["sha256"]) == (len(sent), hashlib.sha256(sent).hexdigest())
        assert seen["headers"]["x-plan"] == "gold"
        assert seen["headers"]["x-forwarded-for"] == LOOPBACK
        connection.request("GET", "/bytes/1000000")
        assert len(connection.getresponse().read()) == 1_000_000


@pytest.mark.parametrize("workers", [1, 2])
def test_h2load_gets_exactly_what_the_limit_says(
    start_daemon: StartDaemon, nginx: Nginx, workers: int
) -> None:
    daemon = start_daemon("--upstream", nginx.url, "--limit", "100/10s", workers=workers)
    before = nginx.requests()
    counted = h2load(f"{daemon.url}/", requests=1_000, connections=20)
    assert (counted.ok, counted.client_errors) == (100, 900)
    assert (counted.server_errors, counted.failed) == (0, 0)
    assert nginx.requests() - before == 100
    metrics = daemon.settled_metrics()
    assert metrics.total("ratelimitd_requests_total", outcome="forwarded") == 100
    assert metrics.total("ratelimitd_requests_total", outcome="limited") == 900
    decisions = "ratelimitd_limit_decisions_total"
    assert metrics.total(decisions, limit="per-client", decision="allowed") == 100
    assert metrics.total(decisions, limit="per-client", decision="limited") == 900


def ask(port: int, count: int) -> list[tuple[int, frozenset[str]]]:
    """Status and field names of `count` answers, over one connection."""
    answers = []
    connection = HTTPConnection(LOOPBACK, port, timeout=10)
    with contextlib.closing(connection):
        for _ in range(count):
            connection.request("GET", "/")
            answer = connection.getresponse()
            answer.read()
            answers.append((answer.status, frozenset(name.lower() for name in answer.headers)))
    return answers


@pytest.mark.parametrize("workers", [1, 2])
def test_every_refusal_says_when_to_come_back(start_daemon: StartDaemon, nginx: Nginx, workers: int) -> None:
    daemon = start_daemon("--upstream", nginx.url, "--limit", "100/10s", workers=workers)
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        answers = [answer for part in pool.map(ask, [daemon.port] * 10, [100] * 10) for answer in part]
    refused = [fields for status, fields in answers if status == 429]
    assert [status for status, _ in answers].count(200) == 100
    assert len(refused) == 900
    wanted = {"retry-after", "ratelimit", "ratelimit-policy"}
    assert [fields for fields in refused if not wanted <= fields] == []


def loaded(start_daemon: StartDaemon, nginx: Nginx, directory: Path, seconds: float) -> None:
    daemon = start_daemon(*unshed(directory, nginx.url), "--limit", "global=1000M/1h", workers=2)
    connections = 64
    counted = wrk(f"{daemon.url}/", connections=connections, seconds=seconds)
    metrics = daemon.settled_metrics()
    assert (counted.socket_errors, counted.refused) == (0, 0), metrics.samples
    total = metrics.total("ratelimitd_requests_total")
    assert counted.requests <= total <= counted.requests + connections
    assert metrics.total("ratelimitd_worker_restarts_total") == 0


@pytest.mark.timing
def test_wrk_sees_no_error_and_every_request_is_counted(
    start_daemon: StartDaemon, nginx: Nginx, tmp_path: Path
) -> None:
    loaded(start_daemon, nginx, tmp_path, seconds=3)


@pytest.mark.slow
def test_wrk_for_longer(start_daemon: StartDaemon, nginx: Nginx, tmp_path: Path) -> None:
    loaded(start_daemon, nginx, tmp_path, seconds=30)
