"""Starting and stopping: ports in TIME_WAIT, ports in use, signals, Ctrl-C, a supervisor that is killed."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import signal
import socket
import threading
from http.client import HTTPConnection
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import StartDaemon
from tests.daemon import has_ended
from tests.proxy.recording import Connection, Recording
from tests.proxy.talking import Client
from tests.servers import ANSWER, LOOPBACK, Gunicorn, Nginx, wait_until

TIME_WAIT: Final = "06"


def get(port: int, path: str = "/", headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    """Status and body of one answer, over a connection of its own."""
    connection = HTTPConnection(LOOPBACK, port, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()


def has_time_wait(port: int) -> bool:
    """Whether a connection that `port` closed first lingers."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(int(fields[1].split(":")[1], 16) == port and fields[3] == TIME_WAIT for fields in lines)


def test_restarts_on_a_port_with_connections_in_time_wait(start_daemon: StartDaemon, nginx: Nginx) -> None:
    first = start_daemon("--upstream", nginx.url, workers=2)
    for _ in range(20):
        assert get(first.port, headers={"Connection": "close"}) == (200, ANSWER)
    assert has_time_wait(first.port)
    first.finish()
    assert has_time_wait(first.port)
    second = start_daemon("--upstream", nginx.url, workers=2, port=first.port)
    assert get(second.port) == (200, ANSWER)


def test_a_second_daemon_on_the_port_says_so_and_leaves(start_daemon: StartDaemon, nginx: Nginx) -> None:
    first = start_daemon("--upstream", nginx.url)
    second = start_daemon("--upstream", nginx.url, port=first.port, ready=False)
    second.expected_exit_code = 1
    assert second.wait() == 1
    assert f"{LOOPBACK}:{first.port}" in second.stderr
    assert "in use" in second.stderr
    assert [get(first.port) for _ in range(10)] == [(200, ANSWER)] * 10


def test_a_port_that_something_else_listens_on_is_left_alone(start_daemon: StartDaemon, nginx: Nginx) -> None:
    with socket.create_server((LOOPBACK, 0), reuse_port=True) as other:
        port = other.getsockname()[1]
        daemon = start_daemon("--upstream", nginx.url, port=port, ready=False)
        daemon.expected_exit_code = 1
        assert daemon.wait() == 1
        assert f"{LOOPBACK}:{port}" in daemon.stderr
        other.settimeout(0)
        with pytest.raises(BlockingIOError):
            other.accept()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_what_is_in_flight(
    start_daemon: StartDaemon, gunicorn: Gunicorn, number: signal.Signals
) -> None:
    daemon = start_daemon("--upstream", gunicorn.url, workers=2)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(get, daemon.port, "/sleep/0.8") for _ in range(8)]
        wait_until(
            lambda: daemon.metrics().total("ratelimitd_upstream_inflight") == 8, "8 requests in flight"
        )
        daemon.send(number)
        assert [answer.result()[0] for answer in answers] == [200] * 8
    assert daemon.wait() == 0


def test_a_connection_whose_answer_had_begun_ends_with_it(start_daemon: StartDaemon) -> None:
    """The head of that answer promised to keep the connection; the worker must not wait for an idle one."""
    go = threading.Event()

    def in_two_parts(connection: Connection, head: bytes) -> None:  # noqa: ARG001
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
        assert go.wait(10)
        connection.send(b"cd")

    with Recording() as recording:
        recording.script = in_two_parts
        daemon = start_daemon("--upstream", recording.url)
        with Client(daemon.port) as client:
            client.send(b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n")
            assert not client.head().closes
            daemon.send(signal.SIGTERM)
            wait_until(lambda: "draining" in daemon.stderr, "the daemon drains")
            wait_until(lambda: refuses(daemon.port), "no new connection is accepted")
            go.set()
            assert client.rest() == b"abcd"
        daemon.wait()
    assert "cut off" not in daemon.stderr


def refuses(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port), 10).close()
    except OSError:
        return True
    return False


def test_ctrl_c_reaches_the_whole_group_and_still_drains(
    start_daemon: StartDaemon, gunicorn: Gunicorn
) -> None:
    daemon = start_daemon("--upstream", gunicorn.url, workers=2)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(get, daemon.port, "/sleep/0.8") for _ in range(4)]
        wait_until(
            lambda: daemon.metrics().total("ratelimitd_upstream_inflight") == 4, "4 requests in flight"
        )
        os.killpg(daemon.pid, signal.SIGINT)
        assert [answer.result()[0] for answer in answers] == [200] * 4
    assert daemon.wait() == 0


def test_workers_outlive_a_killed_supervisor_no_longer_than_their_requests(
    start_daemon: StartDaemon, gunicorn: Gunicorn
) -> None:
    daemon = start_daemon("--upstream", gunicorn.url, workers=2)
    workers = daemon.workers()
    assert len(workers) == 2
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(get, daemon.port, "/sleep/1") for _ in range(8)]
        wait_until(
            lambda: daemon.metrics().total("ratelimitd_upstream_inflight") == 8, "8 requests in flight"
        )
        daemon.killed()
        assert [answer.result()[0] for answer in answers] == [200] * 8
    wait_until(lambda: all(has_ended(pid) for pid in workers), "both workers have ended")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((LOOPBACK, daemon.port), timeout=1)
