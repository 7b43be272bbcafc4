"""Real servers as child processes: started on free loopback ports, awaited, ended.

A server is ready when it accepts connections at its address; if it ends before that, what it wrote to
stderr is the error. Only processes that were started here are ever signalled.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Self, TypeVar

T = TypeVar("T")

LOOPBACK: Final = "127.0.0.1"
ANSWER: Final = b"thirty-seven bytes from a real server"

# Below the range from which the kernel takes the ports of outgoing connections, and apart for each process
# of a parallel run: a port found free stays free until its server binds it.
_FIRST_PORT: Final = 12_000
_PORTS_EACH: Final = 1_000
_PROCESSES: Final = 20
_places = itertools.count(os.getpid() * 31)


def free_port() -> int:
    """A port of the loopback address that nobody listens on."""
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw-1").removeprefix("gw")) + 1
    first = _FIRST_PORT + process % _PROCESSES * _PORTS_EACH
    for _ in range(_PORTS_EACH):
        port = first + next(_places) % _PORTS_EACH
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((LOOPBACK, port))
            return port
    raise AssertionError("no free port")


def wait_until(condition: Callable[[], T | None], what: str, timeout_s: float = 10.0) -> T:
    """The first true value of `condition`, looked at every 10 ms; fails when none comes in time."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.01)
    return value


class Process:
    """One child process in its own process group, its output in files of `directory`."""

    def __init__(self, name: str, arguments: Sequence[str], directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.stdout_path = directory / f"{name}.stdout"
        self.stderr_path = directory / f"{name}.stderr"
        with self.stdout_path.open("ab") as stdout, self.stderr_path.open("ab") as stderr:
            self._popen = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, process_group=0
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._popen.poll()

    @property
    def stderr(self) -> str:
        return self.stderr_path.read_text(errors="replace")

    @property
    def stdout(self) -> str:
        return self.stdout_path.read_text(errors="replace")

    def send(self, signal_number: int) -> None:
        self._popen.send_signal(signal_number)

    def wait(self, timeout_s: float = 10.0) -> int:
        """Its exit code, once it has ended by itself."""
        return self._popen.wait(timeout_s)

    def stop(self, timeout_s: float = 10.0) -> int:
        """Ends it, with force after `timeout_s`, and gives its exit code."""
        if self.exit_code is None:
            self.send(signal.SIGTERM)
        try:
            return self.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            return self.wait()

    def wait_for_port(self, port: int, timeout_s: float = 15.0) -> None:
        """Returns when somebody accepts connections on `port`; fails at once when the process has ended."""

        def accepts() -> bool:
            assert self.exit_code is None, f"{self.name} ended with {self.exit_code}: {self.stderr}"
            with socket.socket() as probe:
                return probe.connect_ex((LOOPBACK, port)) == 0

        wait_until(accepts, f"{self.name} accepts connections on port {port}", timeout_s)


class Nginx(Process):
    """nginx with one worker; answers with the 37 bytes of ANSWER, and to /content with a file of 100,000."""

    def __init__(self, directory: Path, port: int | None = None, listen: str = LOOPBACK) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._listen = listen
        self.port = port or free_port()
        self.status_port = free_port()
        self._status_requests = 0
        configuration = directory / "nginx.conf"
        configuration.write_text(self._configuration(directory))
        (directory / "content").write_bytes(bytes(n * n % 251 for n in range(100_000)))
        os.utime(directory / "content", (1_600_000_000, 1_600_000_000))
        nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        assert nginx is not None, "nginx is not installed: scripts/prepare test"
        super().__init__("nginx", [nginx, "-p", str(directory), "-c", str(configuration)], directory)
        self.wait_for_port(self.port)

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def requests(self) -> int:
        """How many requests it has read on its public port."""
        connection = http.client.HTTPConnection(LOOPBACK, self.status_port, timeout=5)
        with contextlib.closing(connection):
            connection.request("GET", "/")
            numbers = connection.getresponse().read().split(b"\n")[2].split()
        self._status_requests += 1
        return int(numbers[2]) - self._status_requests

    def _configuration(self, directory: Path) -> str:
        user = "user root;" if os.geteuid() == 0 else ""
        places = "".join(
            f"{name}_temp_path {directory}/{name};"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        return f"""
            {user} daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log stderr warn;
            events {{ worker_connections 4096; }}
            http {{
                access_log off; keepalive_requests 1000000000; {places}
                server {{
                    listen {self._listen}:{self.port} backlog=4096;
                    location / {{ default_type text/plain; return 200 "{ANSWER.decode()}"; }}
                    location = /content {{ root {directory}; }}
                }}
                server {{
                    listen {LOOPBACK}:{self.status_port};
                    location / {{ stub_status; }}
                }}
            }}"""


class Gunicorn(Process):
    """gunicorn with threads, serving tests/echo.py: says what arrived, and waits when it is told to."""

    def __init__(self, directory: Path, port: int | None = None) -> None:
        self.port = port or free_port()
        root = Path(__file__).resolve().parent.parent
        arguments = [sys.executable, "-m", "gunicorn", "--chdir", str(root), "--threads", "16"]
        arguments += ["--bind", f"{LOOPBACK}:{self.port}", "--keep-alive", "30", "--graceful-timeout", "1"]
        super().__init__("gunicorn", [*arguments, "--no-control-socket", "tests.echo:application"], directory)
        self.wait_for_port(self.port)

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"
