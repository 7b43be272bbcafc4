"""What systemd would read, on a real datagram socket."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

import pytest

from ratelimitd.control.notify import Notifier

if TYPE_CHECKING:
    from pathlib import Path


def bound(address: str) -> socket.socket:
    systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    systemd.bind(address)
    systemd.settimeout(5)
    return systemd


def test_messages(tmp_path: Path) -> None:
    with bound(str(tmp_path / "notify")) as systemd:
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        notifier.starting("starting 2 workers")
        notifier.ready("serving")
        notifier.alive()
        notifier.stopping("draining", within_us=32_000_000)
        assert [systemd.recv(100) for _ in range(4)] == [
            b"STATUS=starting 2 workers",
            b"READY=1\nSTATUS=serving",
            b"WATCHDOG=1",
            b"STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC=32000000",
        ]


def test_a_reload_is_told_with_its_clock_and_its_end(tmp_path: Path) -> None:
    with bound(str(tmp_path / "notify")) as systemd:
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        notifier.ready("serving on a")
        systemd.recv(100)
        before_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        notifier.reloading()
        after_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        reloading, clock, status = systemd.recv(100).decode().split("\n")
        assert (reloading, status) == ("RELOADING=1", "STATUS=reloading")
        assert before_us <= int(clock.removeprefix("MONOTONIC_USEC=")) <= after_us
        notifier.reloaded(refused="a.yaml:1:1: wrong\na.yaml:2:1: wrong too")
        assert systemd.recv(1000) == (
            b"READY=1\nSTATUS=serving on a; the last reload was refused: "
            b"a.yaml:1:1: wrong | a.yaml:2:1: wrong too"
        )
        notifier.reloaded()
        assert systemd.recv(1000) == b"READY=1\nSTATUS=serving on a"


def test_a_status_is_one_line_of_a_bounded_length(tmp_path: Path) -> None:
    with bound(str(tmp_path / "notify")) as systemd:
        Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")}).ready("a\nWATCHDOG_USEC=1\n" + "long " * 10_000)
        said = systemd.recv(100_000).decode()
        assert said.startswith("READY=1\nSTATUS=a | WATCHDOG_USEC=1 | long ")
        assert said.count("\n") == 1
        assert len(said) < 600


def test_abstract_address() -> None:
    name = f"ratelimitd-test-{os.getpid()}"
    with bound(f"\0{name}") as systemd:
        Notifier({"NOTIFY_SOCKET": f"@{name}"}).alive()
        assert systemd.recv(100) == b"WATCHDOG=1"


def test_nobody_listens(tmp_path: Path) -> None:
    Notifier({}).ready("unheard")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("unheard")


def test_a_full_queue_is_not_waited_for(tmp_path: Path) -> None:
    with bound(str(tmp_path / "notify")):
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        for _ in range(10_000):
            notifier.alive()


@pytest.mark.parametrize(
    ("environ", "watchdog_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_watchdog(environ: dict[str, str], watchdog_s: float | None) -> None:
    assert Notifier({"NOTIFY_SOCKET": "/run/x", **environ}).watchdog_s == watchdog_s
    assert Notifier(environ).watchdog_s is None
