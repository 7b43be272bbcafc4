"""What clients of the real daemon see of shedding: who is refused, how, and that it ends with its sampler.

The supervisor is stopped, so that the order in the segment is the test's own; workers obey it as they obey
the supervisor's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest

from ratelimitd.segment.memory import boottime_us
from ratelimitd.segment.shedding import MILLION, ShedOrder, ShedWords
from tests.conftest import StartDaemon
from tests.daemon import Daemon
from tests.e2e.orders import stopped
from tests.servers import LOOPBACK, Nginx, wait_until

FILE = """
upstreams: {web: {servers: ["%s"], concurrency: unlimited}}
routes:
  - {match: {path: /critical}, upstream: web, priority: critical}
  - {match: {path: /high}, upstream: web, priority: high}
  - {match: {path: /sheddable}, upstream: web, priority: sheddable}
  - {upstream: web}
limits: [{name: per-client, per: client, rate: 100000/h}]
log: {access: none}
"""
PATHS = ("/critical", "/high", "/normal", "/sheddable")


@pytest.fixture
def daemon(start_daemon: StartDaemon, nginx: Nginx, tmp_path: Path, request: pytest.FixtureRequest) -> Daemon:
    """One worker; a test's parameter is added to the file."""
    file = tmp_path / "shedding.yaml"
    file.write_text(FILE % nginx.url + getattr(request, "param", ""))
    return start_daemon("-c", str(file))


class Client:
    """One connection, which every answer must leave open."""

    def __init__(self, daemon: Daemon) -> None:
        self._connection = HTTPConnection(LOOPBACK, daemon.port, timeout=5)
        self._connection.connect()
        self._socket = self._connection.sock

    def get(self, path: str, method: str = "GET", accept: str = "*/*") -> tuple[int, dict[str, str], bytes]:
        self._connection.request(method, path, headers={"Accept": accept})
        answer = self._connection.getresponse()
        body = answer.read()
        assert self._connection.sock is self._socket
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, body

    def statuses(self) -> list[int]:
        return [self.get(path)[0] for path in PATHS]

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    client = Client(daemon)
    yield client
    client.close()


def order(words: ShedWords, client: Client, *passing: int, spread_s: int = 4) -> None:
    """Writes an order and waits until the worker has taken it up."""
    critical, high, normal, sheddable = passing
    words.write(ShedOrder((critical, high, normal, sheddable), MILLION, spread_s, boottime_us()))
    expected = [200 if share else 429 for share in passing]
    wait_until(lambda: client.statuses() == expected, f"{expected}", 1.0)


def test_the_lowest_priorities_go_first_and_no_limit_is_charged(daemon: Daemon, client: Client) -> None:
    assert client.statuses() == [200] * 4
    with stopped(daemon) as words:
        order(words, client, MILLION, MILLION, MILLION, 0)
        order(words, client, MILLION, 0, 0, 0)
        before = int(client.get("/critical")[1]["ratelimit"].partition("r=")[2].partition(";")[0])
        order(words, client, 0, 0, 0, 0)
        refused = 100
        for number in range(refused):
            assert client.get(PATHS[number % 4])[0] == 429
        order(words, client, MILLION, 0, 0, 0)
        after = int(client.get("/critical")[1]["ratelimit"].partition("r=")[2].partition(";")[0])
    assert before - after < refused // 2, "only what passed was charged"
    metrics = daemon.settled_metrics()
    assert metrics.total("ratelimitd_requests_total", outcome="shed") >= refused
    assert metrics.total("ratelimitd_requests_total", outcome="limited") == 0


def test_a_refusal_says_when_to_come_back_and_what_it_is(daemon: Daemon, client: Client) -> None:
    with stopped(daemon) as words:
        order(words, client, MILLION, MILLION, MILLION, 0)
        status, fields, body = client.get("/sheddable", accept="application/json")
        assert status == 429
        assert fields["content-type"] == "application/problem+json"
        assert fields["cache-control"] == "no-store"
        assert not {"ratelimit", "ratelimit-policy"} & fields.keys()
        problem = json.loads(body)
        assert problem["status"] == 429
        assert "limit" not in problem
        assert problem["type"].endswith("temporary-reduced-capacity")
        assert client.get("/sheddable", accept="text/html")[1]["content-type"].startswith("text/plain")
        assert client.get("/sheddable", method="HEAD")[2] == b""
        waits = {int(client.get("/sheddable")[1]["retry-after"]) for _ in range(100)}
    assert waits == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("daemon", ["shedding: {status: 499}\n"], indirect=True)
def test_the_status_is_the_operators(daemon: Daemon, client: Client) -> None:
    """Even one that no registry knows."""
    with stopped(daemon) as words:
        words.write(ShedOrder((0, 0, 0, 0), MILLION, 0, boottime_us()))
        wait_until(lambda: client.get("/normal")[0] == 499, "499", 1.0)
        assert client.get("/normal")[1]["retry-after"] == "1"


def test_about_the_share_that_was_ordered_passes(daemon: Daemon, client: Client) -> None:
    with stopped(daemon) as words:
        words.write(ShedOrder((MILLION, MILLION, MILLION, MILLION // 4), MILLION, 0, boottime_us()))
        wait_until(lambda: client.get("/sheddable")[0] == 429, "429", 1.0)
        passed = sum(client.get("/sheddable")[0] == 200 for _ in range(400))
        assert 60 <= passed <= 140
        assert [client.get("/normal")[0] for _ in range(50)] == [200] * 50


def test_shedding_ends_two_seconds_after_the_last_sample(daemon: Daemon, client: Client) -> None:
    with stopped(daemon) as words:
        order(words, client, 0, 0, 0, 0)
        sampled_us = words.read().sampled_us
        wait_until(lambda: client.statuses() == [200] * 4, "nothing is shed any more", 3.0)
        ended_us = boottime_us()
        assert words.read().passing == (0, 0, 0, 0), "nobody withdrew the order"
        assert 1_000_000 < ended_us - sampled_us <= 2_000_000
        wait_until(lambda: boottime_us() > sampled_us + 2_250_000, "the supervisor misses a sample for 2 s")
    wait_until(lambda: "nothing was shed in that time" in daemon.stderr, "it is said")
    assert daemon.metrics().total("ratelimitd_shed_level") == 0


def test_the_signals_are_among_the_metrics(daemon: Daemon, client: Client) -> None:
    def sampled() -> bool:
        return 0 < daemon.metrics().total("ratelimitd_cpu_pressure_ratio") <= 1

    wait_until(sampled, "a sample was taken")
    client.get("/critical")
    metrics = daemon.metrics()
    assert metrics.total("ratelimitd_shed_level") == 0
    assert ("ratelimitd_loop_lag_seconds", frozenset({("worker", "0")})) in metrics.samples
