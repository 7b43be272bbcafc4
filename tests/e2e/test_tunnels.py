"""The life of a tunnel beside that of the daemon: its deadline, reloads, drains, and its line in the log."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from ratelimitd.control.answers import ReloadAnswer
from tests.conftest import StartDaemon
from tests.control.admin_client import ask
from tests.daemon import Daemon
from tests.proxy.recording import Recording
from tests.proxy.talking import Client, get
from tests.proxy.tunnelling import UPGRADE, Peer, echoing, open_tunnel, wait_nothing_is_left
from tests.servers import wait_until


@pytest.fixture
def upstream() -> Iterator[Recording]:
    with Recording() as server:
        server.script = echoing
        yield server


class Running:
    """A daemon and its file."""

    def __init__(self, start_daemon: StartDaemon, upstream: Recording, directory: Path) -> None:
        self._file, self._socket = directory / "tunnels.yaml", directory / "admin.sock"
        self._url = upstream.url
        self._write("{}")
        self.daemon: Daemon = start_daemon("-c", str(self._file))

    def _write(self, timeouts: str) -> None:
        self._file.write_text(
            f"upstreams: {{web: {{servers: ['{self._url}']}}}}\n"
            f"admin: {{socket: '{self._socket}'}}\n"
            f"timeouts: {timeouts}\n"
        )

    def reload(self, timeouts: str) -> None:
        self._write(timeouts)
        answer = msgspec.json.decode(ask(self._socket, "POST", "/api/reload")[2], type=ReloadAnswer)
        assert answer.result == "success", answer


@pytest.fixture
def running(start_daemon: StartDaemon, upstream: Recording, tmp_path: Path) -> Running:
    return Running(start_daemon, upstream, tmp_path)


def says(client: Client, text: bytes) -> None:
    client.send(text)
    assert client.take(len(text)) == text


@pytest.mark.timing
def test_silence_ends_a_tunnel_and_a_reload_says_how_long(running: Running) -> None:
    with Client(running.daemon.port) as client:
        open_tunnel(client)
        running.reload("{tunnel: 600ms}")  # for those that are open, too, when something moves next
        for _ in range(6):
            time.sleep(0.2)
            says(client, b"still here")
        began_s = time.monotonic()
        assert client.is_closed()
        assert 0.5 < time.monotonic() - began_s < 1.5
    wait_nothing_is_left(running.daemon)


@pytest.mark.timing
def test_one_side_alone_keeps_a_tunnel_open(running: Running, upstream: Recording) -> None:
    running.reload("{tunnel: 600ms}")
    peer = Peer(upstream)
    with Client(running.daemon.port) as client:
        open_tunnel(client)
        for _ in range(8):
            time.sleep(0.1)
            peer.sock.sendall(b".")
        assert client.take(8) == b"." * 8
        assert client.is_closed()
        assert peer.is_ended()
    peer.finish()


def test_reloads_leave_tunnels_alone(running: Running) -> None:
    with Client(running.daemon.port) as client:
        open_tunnel(client)
        for seconds in (11, 12, 13):
            running.reload(f"{{head: {seconds}s}}")
            says(client, b"hello")


def test_tunnels_go_on_while_the_daemon_drains(running: Running) -> None:
    daemon = running.daemon
    with Client(daemon.port) as client:
        open_tunnel(client)
        daemon.send(signal.SIGTERM)
        wait_until(lambda: "draining" in daemon.stderr, "the daemon drains")
        for _ in range(5):
            says(client, b"hello")
        client.end()
        assert client.is_closed()
    assert daemon.wait() == 0


def test_a_drain_that_is_over_ends_tunnels(running: Running) -> None:
    running.reload("{drain: 500ms}")
    daemon = running.daemon
    with Client(daemon.port) as client:
        open_tunnel(client)
        daemon.send(signal.SIGTERM)
        wait_until(lambda: "draining" in daemon.stderr, "the daemon drains")
        says(client, b"hello")
        assert client.is_closed()
    assert daemon.wait() == 0


def test_its_line_is_written_when_it_opens(running: Running) -> None:
    def lines() -> list[dict[str, object]]:
        return [json.loads(line) for line in running.daemon.stdout.splitlines()]

    with Client(running.daemon.port) as client:
        assert client.ask(get("/chat", *UPGRADE)).status == 101
        (line,) = wait_until(lines, "a line was written")
        assert [line[key] for key in ("target", "status", "outcome")] == ["/chat", 101, "forwarded"]
        says(client, b"hello")
    wait_nothing_is_left(running.daemon)
    assert lines() == [line]
