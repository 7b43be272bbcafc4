"""What the daemon tells systemd in the course of its life, on a real notification socket."""

from __future__ import annotations

import contextlib
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.control.daemon import STUB, config, daemon

FILE = "upstreams: {web: {servers: ['http://127.0.0.1:9']}}\n"


class Systemd:
    """The receiving end: messages as systemd gets them, without the watchdog's unless asked for."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(10)
        self.environ = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "200000"}
        self.pings = 0

    def hear(self) -> dict[str, str]:
        """The next message that is no sign of life."""
        deadline_s = time.monotonic() + 10
        while (message := self.socket.recv(10_000)) == b"WATCHDOG=1":
            self.pings += 1
            if time.monotonic() > deadline_s:
                raise TimeoutError("nothing but signs of life")
        return dict(line.split("=", 1) for line in message.decode().split("\n"))

    def hear_pings(self, count: int) -> None:
        for _ in range(count):
            assert self.socket.recv(10_000) == b"WATCHDOG=1"


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    listening = Systemd(tmp_path / "notify")
    with contextlib.closing(listening.socket):
        yield listening


def test_a_life(systemd: Systemd, tmp_path: Path) -> None:
    file = tmp_path / "ratelimitd.yaml"
    file.write_text(FILE)
    with daemon(config(), environ=systemd.environ, path=str(file)) as server:
        assert systemd.hear() == {"STATUS": "starting 2 workers"}
        assert systemd.pings == 0, "systemd expects the first one after READY"
        ready = systemd.hear()
        assert ready["READY"] == "1"
        assert ready["STATUS"].startswith("serving on 127.0.0.1:")
        systemd.hear_pings(3)

        server.signal(signal.SIGHUP)
        reloading = systemd.hear()
        assert reloading["RELOADING"] == "1"
        assert int(reloading["MONOTONIC_USEC"]) > 0
        assert systemd.hear() == ready
        file.write_text("upstreams: 1\n")
        server.signal(signal.SIGHUP)
        again = systemd.hear()
        assert int(again["MONOTONIC_USEC"]) > int(reloading["MONOTONIC_USEC"])
        refused = systemd.hear()
        assert refused["READY"] == "1", "the old configuration serves on"
        assert refused["STATUS"].startswith(f"{ready['STATUS']}; the last reload was refused: {file}:1:12: ")

        server.signal(signal.SIGTERM)
        stopping = systemd.hear()
        assert stopping["STOPPING"] == "1"
        assert server.wait() == 0


def test_not_ready_before_every_worker_accepts(systemd: Systemd) -> None:
    with daemon(config(), (*STUB, "--mute"), environ=systemd.environ) as server:
        assert systemd.hear() == {"STATUS": "starting 2 workers"}
        systemd.socket.settimeout(1)
        with pytest.raises(TimeoutError):
            systemd.hear()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


def test_a_long_drain_asks_for_its_time_and_shows_that_it_lives(systemd: Systemd) -> None:
    with daemon(config(), environ=systemd.environ) as server:
        server.until_serving()
        with server.connect() as connection:
            connection.recv(100)
            server.signal(signal.SIGTERM)
            while "STOPPING" not in (message := systemd.hear()):
                pass
            assert 30_000_000 < int(message["EXTEND_TIMEOUT_USEC"]) < 40_000_000
            assert message["STATUS"].startswith("draining: ")
            systemd.hear_pings(3)
        assert server.wait() == 0


@pytest.mark.timing
def test_a_loop_that_is_stuck_says_nothing(systemd: Systemd) -> None:
    with daemon(config(), environ=systemd.environ) as server:
        while systemd.hear().get("READY") != "1":
            pass
        server.signal(signal.SIGSTOP)
        systemd.socket.settimeout(0.5)
        with pytest.raises(TimeoutError):
            while True:
                systemd.socket.recv(10_000)
        server.signal(signal.SIGCONT)
        systemd.socket.settimeout(10)
        systemd.hear_pings(2)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
