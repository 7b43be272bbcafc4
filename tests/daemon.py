"""The real daemon as a process: started, awaited, asked for its metrics, stopped, and judged at the end.

A Daemon that a test has finished with must have ended cleanly, whatever the test was about: no traceback,
exit code 0, every request counted once. A test that kills it on purpose says so by `killed()`.
"""

from __future__ import annotations

import contextlib
import http.client
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.metrics import Metrics
from tests.servers import LOOPBACK, Process, free_port, wait_until

COMMAND: Final = (sys.executable, "-m", "ratelimitd")
WORKER_PROGRAM: Final = b"ratelimitd.proxy.worker"


class Daemon(Process):
    """`ratelimitd run` with the given arguments, an address and an admin address on free ports.

    With `listens_by_file` it is the file among the arguments that says where to listen, on `port` too; `host`
    is the address for both, where the loopback is that of another network.
    """

    def __init__(
        self,
        directory: Path,
        arguments: Sequence[str],
        *,
        workers: int = 1,
        port: int | None = None,
        listens_by_file: bool = False,
        prefix: Sequence[str] = (),
        host: str = LOOPBACK,
    ) -> None:
        self.host = host
        self.port = port or free_port()
        self.admin_port = free_port()
        self.expected_exit_code: int | None = 0
        addresses = ["--admin", f"{host}:{self.admin_port}"]
        if not listens_by_file:
            addresses += ["--listen", f"{host}:{self.port}"]
        command = [*prefix, *COMMAND, "run", *addresses, "--workers", str(workers), *arguments]
        super().__init__("ratelimitd", command, directory)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Returns when /readyz says 200; fails at once when the daemon has ended."""

        def is_ready() -> bool:
            assert self.exit_code is None, f"ended with {self.exit_code}: {self.stderr}"
            try:
                return self.admin("/readyz")[0] == 200
            except OSError:
                return False

        wait_until(is_ready, f"/readyz says 200; stderr: {self.stderr}", timeout_s)

    def admin(self, path: str) -> tuple[int, str]:
        """Status and body of an answer of the admin address."""
        connection = http.client.HTTPConnection(self.host, self.admin_port, timeout=5)
        with contextlib.closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def metrics(self) -> Metrics:
        status, text = self.admin("/metrics")
        assert status == 200, text
        return Metrics.parse(text)

    def settled_metrics(self) -> Metrics:
        """The metrics once nothing is in flight: after load, the last requests end a little later."""

        def settled() -> Metrics | None:
            metrics = self.metrics()
            busy = metrics.total("ratelimitd_connections", state="active")
            return None if busy or metrics.total("ratelimitd_upstream_inflight") else metrics

        return wait_until(settled, "no request in flight")

    def workers(self) -> list[int]:
        """The pids of its worker processes."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [int(pid) for pid in children if WORKER_PROGRAM in command_line(int(pid))]

    def killed(self) -> None:
        """Ends the supervisor with SIGKILL; nothing is expected of its exit code."""
        self.expected_exit_code = None
        self.send(signal.SIGKILL)
        self.wait()

    def finish(self) -> None:
        """Stops it and asserts what holds for every run of the daemon."""
        try:
            if self.exit_code is None:
                self._assert_consistent(self.settled_metrics())
        finally:
            exit_code = self.stop()
        assert "Traceback" not in self.stderr, self.stderr
        assert "Traceback" not in self.stdout, self.stdout
        assert "unexpected:" not in self.stderr, self.stderr
        if self.expected_exit_code is not None:
            assert exit_code == self.expected_exit_code, self.stderr

    def _assert_consistent(self, metrics: Metrics) -> None:
        negative = [key for key, value in metrics.samples.items() if value < 0]
        assert negative == []
        forwarded = metrics.total("ratelimitd_requests_total", outcome="forwarded")
        answered = metrics.total("ratelimitd_upstream_requests_total")
        assert forwarded <= answered, "a forwarded request is one that an upstream server answered"
        limited = metrics.total("ratelimitd_requests_total", outcome="limited")
        assert limited <= metrics.total("ratelimitd_limit_decisions_total", decision="limited")


def unshed(directory: Path, url: str) -> list[str]:
    """The arguments of a daemon before the web server at `url` that sheds nobody, on a full machine too."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "unshed.yaml"
    path.write_text(
        f"upstreams: {{web: {{servers: ['{url}'], concurrency: unlimited}}}}\n"
        "shedding: {cpu_pressure: {signal: none}}\n"
    )
    return ["-c", str(path)]


def command_line(pid: int) -> bytes:
    """The command line of a process, empty when it is gone or a zombie."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def has_ended(pid: int) -> bool:
    """Whether a process that is not our child has ended, reaped or not."""
    return command_line(pid) == b""
