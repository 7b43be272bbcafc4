"""A web server that moves while the daemon runs: the name server is a file, everything else is real."""

from __future__ import annotations

import contextlib
import http.server
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import Daemon
from tests.proxy.talking import Client, get
from tests.servers import free_port, wait_until

PROGRAM = """
import pathlib, sys
from ratelimitd.control import names, resolve
async def lookup(name):
    addresses = pathlib.Path({zone!r}).read_text().split()
    if not addresses:
        raise OSError(-3, "Temporary failure in name resolution")
    return tuple(addresses)
resolve.lookup = lookup
names.Names.__init__.__defaults__ = (lookup,)
names.EVERY_S, names.SOON_S = 0.1, 0.02
from ratelimitd.cli import main
sys.exit(main())
"""

# The checks ask at the addresses that are known: a name server that fails takes no web server along.
HEALTH = "health: {path: /, interval: 500ms, timeout: 500ms, fall: 3}"
FELL = "health checks"


class Handler(http.server.BaseHTTPRequestHandler):
    """Says at which address it is."""

    protocol_version = "HTTP/1.1"

    checks = 0

    def do_GET(self) -> None:
        if self.headers["User-Agent"] == "ratelimitd-health":
            Handler.checks += 1
        body = self.connection.getsockname()[0].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Not to the test's output."""


@contextlib.contextmanager
def web_server(host: str, port: int) -> Iterator[int]:
    with http.server.ThreadingHTTPServer((host, port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def test_a_server_that_moves_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zone, program = tmp_path / "zone", tmp_path / "program.py"
    zone.write_text("127.0.0.1")
    program.write_text(PROGRAM.format(zone=str(zone)))
    monkeypatch.setattr("tests.daemon.COMMAND", (sys.executable, str(program)))
    configuration = tmp_path / "ratelimitd.yaml"
    port = free_port()
    with web_server("127.0.0.1", port), web_server("127.0.0.2", port):
        configuration.write_text(
            f"upstreams: {{web: {{servers: ['http://app.test:{port}'], keepalive_idle: 1h, {HEALTH}}}}}\n"
        )
        daemon = Daemon(tmp_path, ["-c", str(configuration)])
        try:
            daemon.wait_ready()
            with Client(daemon.port) as client:
                # Before the move every request goes over one kept connection.
                assert {client.ask(get()).body for _ in range(5)} == {b"127.0.0.1"}
                zone.write_text("")
                wait_until(lambda: "does not resolve" in daemon.stderr, "the failure is said")
                assert "127.0.0.1 stays in use" in daemon.stderr
                before_checks = Handler.checks
                wait_until(lambda: Handler.checks > before_checks + 1, "it is checked where it was")
                assert client.ask(get()).body == b"127.0.0.1"
                zone.write_text("127.0.0.2")
                wait_until(lambda: "is now at 127.0.0.2 (was 127.0.0.1)" in daemon.stderr, "the move is said")
                wait_until(lambda: client.ask(get()).body == b"127.0.0.2", "requests follow")
                assert {client.ask(get()).body for _ in range(5)} == {b"127.0.0.2"}
                zone.write_text("127.0.0.1 127.0.0.2")
                before = set(daemon.workers())
                wait_until(lambda: "now at 127.0.0.1, 127.0.0.2" in daemon.stderr, "both are said")
                # A worker that starts later knows it too.
                for pid in before:
                    os.kill(pid, signal.SIGKILL)
                wait_until(lambda: set(daemon.workers()) - before, "there is a new worker")
            daemon.wait_ready()
            zone.write_text("")
            with contextlib.ExitStack() as stack:
                clients = [stack.enter_context(Client(daemon.port)) for _ in range(4)]
                for client in clients:
                    client.send(get())
                assert {client.answer().body for client in clients} == {b"127.0.0.1", b"127.0.0.2"}
            assert FELL not in daemon.stderr
            daemon.finish()
        finally:
            daemon.stop()
