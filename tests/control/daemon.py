"""Starts the real supervisor in a process of its own and waits for what it says."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ratelimitd.config.model import Admin, Config, Listener, Server, Upstream

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).resolve().parents[2]
STUB = (sys.executable, str(Path(__file__).with_name("stub_worker.py")))
PROGRAM = """
import sys, msgspec
from ratelimitd.config import load
from ratelimitd.config.flags import Flags
from ratelimitd.config.model import Config
from ratelimitd.control.supervisor import run
given, path, *command = sys.argv[1:]
config, flags = msgspec.json.decode(given, type=Config), None
if path:
    admin = (config.admin.host, config.admin.port)
    flags = Flags(listen=config.listen[0], workers=config.workers, admin=admin)
    config = load.override(load.load_file(path).config, flags)
sys.exit(run(config, path or None, flags, command=command))
"""


def listener(port: int = 0, host: str = "127.0.0.1") -> Listener:
    return Listener(bind=f"{host}:{port}", host=host, port=port)


def config(**changes: object) -> Config:
    """A small configuration on free ports; `changes` replace its parts."""
    upstream = Upstream("web", (Server("http://127.0.0.1:9", host="127.0.0.1", port=9),))
    small = Config(
        upstreams=(upstream,),
        listen=(listener(),),
        workers=2,
        admin=Admin(host="127.0.0.1", port=0, required=True),
    )
    return msgspec.structs.replace(small, **changes)


class Daemon:
    """A running supervisor. `command` starts its workers, `run_by` the supervisor itself; what the file at
    `path` says comes before `config`, but for where it listens and how many workers it has."""

    def __init__(
        self,
        config: Config,
        command: Sequence[str] = STUB,
        environ: dict[str, str] | None = None,
        run_by: Sequence[str] = (),
        path: str = "",
    ) -> None:
        self.lines: list[str] = []
        self._workers_seen: set[int] = set()
        self.process = subprocess.Popen(
            [*run_by, sys.executable, "-c", PROGRAM, msgspec.json.encode(config).decode(), path, *command],
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | (environ or {}),
            cwd="/",
        )
        assert self.process.stderr is not None
        self._stderr = self.process.stderr
        self._rest = b""

    def until(self, pattern: str, within_s: float = 15) -> re.Match[str]:
        """The first line, not looked at before, that matches."""
        deadline_s = time.monotonic() + within_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._stderr, selectors.EVENT_READ)
            while True:
                while b"\n" in self._rest:
                    line, _, self._rest = self._rest.partition(b"\n")
                    self.lines.append(line.decode())
                    if found := re.search(pattern, self.lines[-1]):
                        return found
                if not selector.select(max(0, deadline_s - time.monotonic())):
                    raise AssertionError(f"no line {pattern!r} within {within_s} s: {self.lines}")
                data = os.read(self._stderr.fileno(), 65536)
                if not data:
                    raise AssertionError(f"ended without a line {pattern!r}: {self.lines}")
                self._rest += data

    def until_serving(self) -> Daemon:
        found = self.until(r"serving on (\S+?)(?:,| with)")
        self.address = found[1]
        self.port = int(found[1].rpartition(":")[2]) if ":" in found[1] and "unix" not in found[1] else 0
        return self

    def until_admin(self) -> Daemon:
        self.until_serving()
        self.admin_port = int(self.until(r"admin on http://127\.0\.0\.1:(\d+)")[1])
        return self

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, within_s: float = 15) -> int:
        """Its exit status; the rest of its lines are in `lines` then."""
        status = self.process.wait(within_s)
        self._rest += self._stderr.read()
        self.lines += self._rest.decode().splitlines()
        return status

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 10)

    def ask(self) -> int:
        """The pid of the worker that answers a new connection."""
        with self.connect() as connection:
            return int(connection.recv(100))

    def get(self, path: str, **headers: str) -> tuple[int, str, str]:
        """Status, content type and body of an admin page."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.getheader("Content-Type", ""), answer.read().decode()

    def workers(self) -> list[int]:
        """Pids of its workers, from the kernel."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        found = [pid for pid in map(int, children.split()) if b"--segment" in command_line(pid)]
        self._workers_seen.update(found)
        return found

    def close(self) -> None:
        if self.process.poll() is None:
            self.workers()
            self.process.kill()
            self.process.wait()
        for pid in self._workers_seen:  # one that still has clients would wait for them
            if b"--segment" in command_line(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._stderr.close()


def command_line(pid: int) -> bytes:
    """Empty when the process is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@contextlib.contextmanager
def daemon(
    config: Config,
    command: Sequence[str] = STUB,
    environ: dict[str, str] | None = None,
    run_by: Sequence[str] = (),
    path: str = "",
) -> Iterator[Daemon]:
    """A daemon that is gone afterwards, and said nothing that only a mistake of ours would make it say."""
    started = Daemon(config, command, environ, run_by, path)
    try:
        yield started
    finally:
        started.close()
    assert not [line for line in started.lines if "Traceback" in line or "unexpected:" in line]


def ended(pid: int) -> bool:
    """Whether a process that is not our child is gone, or only waits for its parent to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
