"""What systemd would read, on a real datagram socket."""

from __future__ import annotations

import os
import socket
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
        notifier.ready("serving")
        notifier.alive()
        notifier.stopping("draining")
        assert [systemd.recv(100) for _ in range(3)] == [
            b"READY=1\nSTATUS=serving",
            b"WATCHDOG=1",
            b"STOPPING=1\nSTATUS=draining",
        ]


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
