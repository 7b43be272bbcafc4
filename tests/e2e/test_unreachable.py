"""A web server that cannot be reached is said, by each of the ways in which an operator looks, and so is its
return; each once, however many requests met it."""

from __future__ import annotations

import http.client
import json
from pathlib import Path

import pytest

from ratelimitd.control import answers
from ratelimitd.proxy.unreached import reason
from tests.conftest import StartDaemon
from tests.control.admin_client import exactly
from tests.daemon import Daemon
from tests.servers import LOOPBACK, Nginx, free_port, wait_until


def ask(daemon: Daemon) -> int:
    connection = http.client.HTTPConnection(LOOPBACK, daemon.port, timeout=10)
    connection.request("GET", "/")
    status = connection.getresponse().status
    connection.close()
    return status


def is_up(daemon: Daemon) -> float:
    return daemon.metrics().total("ratelimitd_upstream_up")


def told(daemon: Daemon, words: str) -> list[str]:
    return [line for line in daemon.stderr.splitlines() if words in line]


def test_a_server_that_goes_and_comes_back(start_daemon: StartDaemon, tmp_path: Path) -> None:
    port = free_port()
    daemon = start_daemon("--upstream", f"http://{LOOPBACK}:{port}", workers=2)
    assert is_up(daemon) == 1
    assert [ask(daemon) for _ in range(10)] == [502] * 10
    wait_until(lambda: is_up(daemon) == 0, "the gauge says that it is down")
    (line,) = told(daemon, "cannot be reached")
    assert f"web server http://{LOOPBACK}:{port} of upstream default cannot be reached: " in line
    assert line.endswith("is it running?")
    status = exactly(daemon.admin("/api/status")[1].encode(), answers.StatusAnswer)
    (server,) = status.upstreams
    assert (server.state, server.error, server.in_flight) == ("down", "connection refused", 0)
    assert server.since
    with Nginx(tmp_path / "back", port) as nginx:
        nginx.wait_for_port(port)
        wait_until(lambda: ask(daemon) == 200 and is_up(daemon) == 1, "the gauge says that it is back")
        assert len(told(daemon, "answers again")) == 1
        assert len(told(daemon, "cannot be reached")) == 1
    events = [event["event"] for event in json.loads(daemon.admin("/api/events")[1])["events"]]
    assert [event for event in events if event.startswith("upstream")] == ["upstream_down", "upstream_up"]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConnectionRefusedError(111, "x"), "connection refused"),
        (TimeoutError(), "no connection within timeouts.connect"),
        (TimeoutError(110, "x"), "connection timed out"),
        (OSError("Multiple exceptions: ..."), "multiple exceptions: ..."),
    ],
)
def test_reasons(error: OSError, text: str) -> None:
    assert reason(error) == text
