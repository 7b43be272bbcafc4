"""Listeners come and go with a reload, under load, and nobody notices who was not meant to.

Connections of a listener that is gone are served to their end; one that cannot be opened refuses the reload;
a worker that is replaced has the listeners of now.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import json
import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from ratelimitd.control.answers import ReloadAnswer, StatusAnswer
from tests.control.admin_client import UnixConnection, ask, exactly
from tests.load import wrk
from tests.servers import LOOPBACK, Nginx, free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import StartDaemon


class Running:
    """A daemon of two workers that listens where its file says."""

    def __init__(self, start_daemon: StartDaemon, nginx: Nginx, directory: Path) -> None:
        self._file, self.socket = directory / "ratelimitd.yaml", directory / "admin.sock"
        self._url = nginx.url
        self.first = f"{LOOPBACK}:{free_port()}"
        self.write(self.first)
        self.daemon = start_daemon("-c", str(self._file), workers=2, listens_by_file=True)

    def write(self, *binds: str) -> None:
        content = {
            "listen": [{"bind": bind} for bind in binds],
            "upstreams": {"web": {"servers": [self._url]}},
            "admin": {"socket": str(self.socket)},
            "shedding": {"cpu_pressure": {"signal": "none"}},
        }
        self._file.write_text(json.dumps(content))

    def listen(self, *binds: str) -> ReloadAnswer:
        """Reloads with these listeners."""
        self.write(*binds)
        return msgspec.json.decode(ask(self.socket, "POST", "/api/reload")[2], type=ReloadAnswer)

    def shown(self) -> tuple[str, ...]:
        return exactly(ask(self.socket, "GET", "/api/status")[2], StatusAnswer).listen


@pytest.fixture
def running(start_daemon: StartDaemon, nginx: Nginx, tmp_path: Path) -> Running:
    return Running(start_daemon, nginx, tmp_path)


@contextlib.contextmanager
def connected(bind: str) -> Iterator[http.client.HTTPConnection]:
    path = bind.removeprefix("unix:")
    connection = http.client.HTTPConnection(bind, timeout=10) if path == bind else UnixConnection(Path(path))
    with contextlib.closing(connection):
        yield connection


def status_on(connection: http.client.HTTPConnection) -> int:
    """The status of one request on a connection that is not opened anew."""
    connection.auto_open = connection.sock is None
    connection.request("GET", "/")
    answer = connection.getresponse()
    answer.read()
    return answer.status


def answers(bind: str) -> bool:
    with connected(bind) as connection:
        try:
            return status_on(connection) == 200
        except OSError:
            return False


def test_listeners_come_and_go_under_load(running: Running, tmp_path: Path) -> None:
    second, third, path = f"{LOOPBACK}:{free_port()}", f"{LOOPBACK}:{free_port()}", tmp_path / "http.sock"

    with concurrent.futures.ThreadPoolExecutor() as pool, contextlib.ExitStack() as stack:
        load = pool.submit(wrk, f"http://{running.first}", connections=16, seconds=3)
        assert running.listen(running.first, second).changes == (f"listen {second} added",)
        kept = [stack.enter_context(connected(second)) for _ in range(20)]
        assert [status_on(connection) for connection in kept] == [200] * 20
        turns = 0
        while turns < 3 or not load.done():
            answer = running.listen(running.first, third, f"unix:{path}")
            assert answer.result == "success", answer
            assert running.shown() == (running.first, third, f"unix:{path}")
            assert all(answers(third) for _ in range(10)), "on either worker"
            assert answers(f"unix:{path}")
            assert [status_on(connection) for connection in kept] == [200] * 20
            assert running.listen(running.first).result == "success"
            wait_until(lambda: not answers(third), "the third one is closed")
            assert not path.exists()
            turns += 1
        assert not answers(second)
        assert (load.result().socket_errors, load.result().refused) == (0, 0)
    metrics = running.daemon.settled_metrics()
    assert metrics.total("ratelimitd_requests_total", listener=third, outcome="forwarded") >= 10 * turns
    assert metrics.total("ratelimitd_worker_restarts_total") == 0


def test_a_port_in_use_refuses_the_reload(running: Running, tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    with socket.create_server((LOOPBACK, 0)) as other:
        port = other.getsockname()[1]
        answer = running.listen(running.first, f"unix:{path}", f"{LOOPBACK}:{port}")
        assert answer.result == "refused"
        assert f"cannot listen on {LOOPBACK}:{port}: the port is in use" in answer.reason
    assert not path.exists()
    assert running.shown() == (running.first,)
    assert answers(running.first)
    assert running.listen(running.first, f"{LOOPBACK}:{port}").result == "success"
    assert answers(f"{LOOPBACK}:{port}")


def test_a_replaced_worker_has_the_listeners_of_now(running: Running) -> None:
    second = f"{LOOPBACK}:{free_port()}"
    assert running.listen(second).result == "success"
    for pid in running.daemon.workers():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: running.daemon.metrics().total("ratelimitd_workers") == 2, "both are replaced")
    assert all(answers(second) for _ in range(20))
    assert not answers(running.first)
    assert running.listen(running.first, second).result == "success"
    assert all(answers(running.first) for _ in range(20))
