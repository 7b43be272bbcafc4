"""`bind: systemd:NAME`: the daemon as systemd-socket-activate starts it, by the first connection."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import ANSWER, LOOPBACK, Nginx, Process, free_port, wait_until

# It lets hardly anything of the environment through; what runs is found by its path.
RATELIMITD = str(Path(sys.executable).with_name("ratelimitd"))


class Activated(Process):
    """systemd-socket-activate, listening on `names` (a name for each port), in front of `ratelimitd run`."""

    def __init__(self, directory: Path, names: list[str], *arguments: str, kind: str = "") -> None:
        self.ports = [free_port() for _ in names]
        listen = [f"--listen={LOOPBACK}:{port}" for port in self.ports]
        passed = [*listen, f"--fdname={':'.join(names)}", *([kind] if kind else [])]
        command = [RATELIMITD, "run", "--admin", f"{LOOPBACK}:{free_port()}", *arguments]
        super().__init__("ratelimitd", ["systemd-socket-activate", *passed, *command], directory)
        wait_until(lambda: self.stderr.count("Listening on") == len(names), "the sockets listen")

    def wake(self) -> None:
        """What makes it start the daemon: a first connection, or packet."""
        with socket.socket(type=socket.SOCK_DGRAM) as packet, contextlib.suppress(OSError):
            packet.sendto(b"wake up", (LOOPBACK, self.ports[0]))
        with socket.socket() as connection:
            connection.connect_ex((LOOPBACK, self.ports[0]))


@pytest.fixture
def processes() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def body(port: int) -> bytes:
    """Of an answer on a new connection."""
    with socket.create_connection((LOOPBACK, port), 15) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answer = b""
        while data := connection.recv(65536):
            answer += data
    return answer.partition(b"\r\n\r\n")[2]


def test_the_connection_that_starts_the_daemon_is_answered(
    tmp_path: Path, nginx: Nginx, processes: contextlib.ExitStack
) -> None:
    arguments = ("--listen", "systemd:http", "--upstream", nginx.url, "--workers", "3")
    daemon = processes.enter_context(Activated(tmp_path, ["http"], *arguments))
    assert [body(daemon.ports[0]) for _ in range(20)] == [ANSWER] * 20
    serving = f"serving on {LOOPBACK}:{daemon.ports[0]} with 3 workers"
    wait_until(lambda: serving in daemon.stderr, "all workers serve")
    assert daemon.stop() == 0
    assert "systemd passed" not in daemon.stderr
    assert "Traceback" not in daemon.stderr


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_every_socket_of_a_name_is_served(
    tmp_path: Path, nginx: Nginx, processes: contextlib.ExitStack, workers: int
) -> None:
    arguments = ("--listen", "systemd:http", "--upstream", nginx.url, "--workers", str(workers))
    daemon = processes.enter_context(Activated(tmp_path, ["http", "other", "http"], *arguments))
    assert [body(daemon.ports[place]) for place in (0, 2) * 10] == [ANSWER] * 20
    assert "systemd passed sockets that no listener takes: other" in daemon.stderr
    assert daemon.stop() == 0


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("https", "", "cannot listen on systemd:https: systemd passed no socket of that name, but: http"),
        ("http", "--datagram", "the socket passed as 'http' does not listen for connections"),
    ],
)
def test_sockets_that_cannot_be_used(
    tmp_path: Path, processes: contextlib.ExitStack, name: str, kind: str, message: str
) -> None:
    arguments = ("--listen", f"systemd:{name}", "--upstream", "http://127.0.0.1:9")
    daemon = processes.enter_context(Activated(tmp_path, ["http"], *arguments, kind=kind))
    daemon.wake()
    assert daemon.wait() == 1
    assert message in daemon.stderr
    assert "Traceback" not in daemon.stderr
