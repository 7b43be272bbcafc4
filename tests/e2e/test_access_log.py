"""The access log of the real daemon: one line for each request, whatever became of it, and none torn.

What the lines say agrees with what was counted and with what the limits promise; a reader that stands still
costs lines and nothing else; a file that was renamed is opened anew.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import signal
import socket
import stat
import struct
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Self

import pytest

from tests.conftest import StartDaemon
from tests.daemon import Daemon, unshed
from tests.e2e.access_lines import REQUESTS, AccessLines, settled_lines
from tests.limits.model import worst
from tests.load import h2load
from tests.servers import LOOPBACK, Gunicorn, Nginx, free_port, wait_until

DROPPED = "ratelimitd_log_lines_dropped_total"
RELOADS = "ratelimitd_config_reloads_total"
OUTCOMES = ("forwarded", "limited", "denied", "malformed", "timeout", "upstream_error", "client_gone")


def exchange(daemon: Daemon, request: bytes) -> bytes:
    """What comes back on a connection of its own until it ends."""
    with socket.create_connection((LOOPBACK, daemon.port), 10) as connection:
        connection.sendall(request)
        answer = b""
        while data := connection.recv(65_536):
            answer += data
        return answer


def leave(daemon: Daemon, request: bytes) -> None:
    """Asks, and is gone before the answer."""
    daemon.settled_metrics()  # what is in flight then is this one
    with socket.create_connection((LOOPBACK, daemon.port), 10) as connection:
        connection.sendall(request)
        wait_until(lambda: daemon.metrics().total("ratelimitd_upstream_inflight"), "a server was asked")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def request(target: str, *fields: str) -> bytes:
    lines = [f"GET {target} HTTP/1.1", "Host: shop", "Connection: close", *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def configured(directory: Path, nginx: Nginx, gunicorn: Gunicorn, log: str) -> list[str]:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "ratelimitd.yaml"
    path.write_text(f"""
upstreams:
  fast: {{servers: ["{nginx.url}"]}}
  slow: {{servers: ["{gunicorn.url}"]}}
  down: {{servers: ["http://{LOOPBACK}:{free_port()}"]}}
routes:
  - {{match: {{path: /fast/*}}, upstream: fast}}
  - {{match: {{path: /down}}, upstream: down}}
  - {{match: {{host: shop, path: [/sleep/*, /bytes/*]}}, upstream: slow}}
clients: {{trusted_proxies: [{LOOPBACK}], deny: [198.51.100.7]}}
limits:
  - {{name: per-plan, per: "header:X-Plan", missing: skip, rate: 2/1h}}
timeouts: {{head: 300ms, response: 400ms}}
log: {log}
""")
    return ["-c", str(path)]


def test_one_line_for_every_request_whatever_became_of_it(
    start_daemon: StartDaemon, nginx: Nginx, gunicorn: Gunicorn, tmp_path: Path
) -> None:
    path = tmp_path / "access.log"
    daemon = start_daemon(*configured(tmp_path, nginx, gunicorn, f"{{destination: {path}}}"))
    before_us = time.time_ns() // 1000
    fields = ("X-Forwarded-For: 192.0.2.9", "X-Request-Id: abc\xe9")
    forwarded = exchange(daemon, request('/fast/a?q="%22\\', *fields))
    plan = request("/fast/plan", "X-Plan: gold", "X-Request-Id: theirs")
    for _ in range(3):
        limited = exchange(daemon, plan)
    unread = b"POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nabc"
    exchange(daemon, unread)
    exchange(daemon, request("/fast/", "X-Forwarded-For: 198.51.100.7"))
    exchange(daemon, b"GET /fast/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
    exchange(daemon, b"\x16\x03\x01\x02\n")
    exchange(daemon, b"GET /fast/ HTTP/1.1\r\nHost: a\r\n")
    exchange(daemon, request("/sleep/1"))
    exchange(daemon, request("/down"))
    leave(daemon, request("/sleep/0.3"))
    lines, metrics = settled_lines(daemon, path)
    after_us = time.time_ns() // 1000
    assert lines.outcomes() == {name: metrics.total(REQUESTS, outcome=name) for name in OUTCOMES}
    assert all(before_us <= entry["decided"] <= after_us for entry in lines.entries)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    by_outcome = {entry["outcome"]: entry for entry in lines.entries}

    def entry(outcome: str, **values: object) -> None:
        found = by_outcome[outcome]
        assert {name: found[name] for name in values} == values, found

    (first,) = [entry for entry in lines.entries if entry["target"] == '/fast/a?q="%22\\']
    assert (first["client"], first["request_id"], first["status"]) == ("192.0.2.9", "abc\xe9", 200)
    assert (first["upstream"], first["server"], first["method"]) == ("fast", nginx.url, "GET")
    assert first["bytes_out"] == len(forwarded)
    entry("limited", status=429, limit="per-plan", upstream="fast", server=None, bytes_out=len(limited))
    entry("limited", bytes_in=len(plan), client=LOOPBACK, target="/fast/plan", request_id="theirs")
    entry("timeout", status=504, upstream="slow", server=gunicorn.url, limit=None)
    entry("upstream_error", status=502, upstream="down", target="/down")
    entry("client_gone", status=499, bytes_out=0)
    late = by_outcome["timeout"]
    began_us = dt.datetime.fromisoformat(late["time"]).timestamp() * 1e6
    assert late["duration_ms"] >= 400
    assert late["decided"] - began_us < 200_000, "it is decided when it comes, not when it ends"
    malformed = [entry for entry in lines.entries if entry["outcome"] == "malformed"]
    assert [(entry["status"], entry["target"]) for entry in malformed] == [(400, "/fast/"), (400, None)]
    denied = {entry["status"]: entry for entry in lines.entries if entry["outcome"] == "denied"}
    assert (denied[403]["client"], denied[404]["target"]) == ("198.51.100.7", "/nowhere")
    assert denied[404]["bytes_in"] == len(unread), "what was read of a body counts"
    own_ids = [
        entry["request_id"] for entry in lines.entries if entry["request_id"] not in ("theirs", "abc\xe9")
    ]
    assert len(own_ids) == len(set(own_ids)) == len(lines.entries) - 4
    assert {len(own_id) for own_id in own_ids} == {32}


def test_bytes_of_bodies_are_counted_to_their_request(start_daemon: StartDaemon, gunicorn: Gunicorn) -> None:
    daemon = start_daemon("--upstream", gunicorn.url)
    connection = HTTPConnection(LOOPBACK, daemon.port, timeout=10)
    with contextlib.closing(connection):
        connection.request("POST", "/form", body=bytes(200_000))
        connection.getresponse().read()
        connection.request("GET", "/bytes/300000")
        connection.getresponse().read()
    lines, metrics = settled_lines(daemon, daemon.stdout_path)
    post, get = lines.entries
    assert 200_000 < post["bytes_in"] < 200_500
    assert 300_000 < get["bytes_out"] < 300_500
    assert post["bytes_in"] + get["bytes_in"] == metrics.total("ratelimitd_bytes_total", direction="in")
    assert post["bytes_out"] + get["bytes_out"] == metrics.total("ratelimitd_bytes_total", direction="out")
    assert len(post["request_id"]) == 32
    assert post["request_id"] != get["request_id"]


def test_combined_is_what_log_tools_expect(
    start_daemon: StartDaemon, nginx: Nginx, gunicorn: Gunicorn, tmp_path: Path
) -> None:
    path = tmp_path / "access.log"
    log = f"{{access: combined, destination: {path}}}"
    daemon = start_daemon(*configured(tmp_path, nginx, gunicorn, log))
    exchange(daemon, request("/fast/x", 'User-Agent: a "b"', "Referer: http://shop/"))
    line = wait_until(path.read_text, "a line")
    start, _, rest = line.partition("[")
    assert start == f"{LOOPBACK} - - "
    assert rest.partition("] ")[2] == '"GET /fast/x HTTP/1.1" 200 37 "http://shop/" "a \\"b\\""\n'


def test_fields_of_one_request_are_not_looked_for_in_another(
    start_daemon: StartDaemon, nginx: Nginx, gunicorn: Gunicorn, tmp_path: Path
) -> None:
    """A head that is refused for its first line has no fields, whatever stands where others had theirs."""
    path = tmp_path / "access.log"
    log = f"{{access: combined, destination: {path}}}"
    daemon = start_daemon(*configured(tmp_path, nginx, gunicorn, log))
    before = request("/fast/x", "User-Agent: a", "Referer: http://shop/")
    start = b"GET /fast/x HTTP/1.1"
    alike = start + before.removeprefix(start).rstrip().replace(b"\r\n", b"  ") + b"\r\n\r\n"
    exchange(daemon, before)
    assert exchange(daemon, alike).startswith(b"HTTP/1.1 400 ")
    line = wait_until(lambda: path.read_text().splitlines()[1:], "two lines")[0]
    assert line.endswith(' "-" "-"')


def test_whom_an_observing_limit_would_have_refused(
    start_daemon: StartDaemon, nginx: Nginx, tmp_path: Path
) -> None:
    path = tmp_path / "access.log"
    config = tmp_path / "ratelimitd.yaml"
    config.write_text(f"""
upstreams: {{web: {{servers: ["{nginx.url}"]}}}}
limits: [{{name: trial, per: client, rate: 2/1h, action: observe}}]
log: {{destination: {path}}}
""")
    daemon = start_daemon("-c", str(config))
    for _ in range(4):
        exchange(daemon, request("/"))
    lines, _ = settled_lines(daemon, path)
    assert [entry["limit"] for entry in lines.entries] == [None, None, "trial", "trial"]
    assert lines.outcomes() == {"forwarded": 4}


@pytest.mark.parametrize("workers", [1, 2])
def test_the_decided_instants_of_what_passed_show_no_window_over_the_limit(
    start_daemon: StartDaemon, nginx: Nginx, tmp_path: Path, workers: int
) -> None:
    daemon = start_daemon(*unshed(tmp_path, nginx.url), "--limit", "100/1s", workers=workers)
    counted, end_s = [], time.monotonic() + 2.5
    while time.monotonic() < end_s:
        counted.append(h2load(f"{daemon.url}/", requests=4_000, connections=20))
    lines, metrics = settled_lines(daemon, daemon.stdout_path)
    passed = [(entry["decided"], 1) for entry in lines.entries if entry["outcome"] == "forwarded"]
    assert len(passed) == sum(count.ok for count in counted) > 100, "more than one window was filled"
    assert len(lines.entries) == metrics.total(REQUESTS) == 4_000 * len(counted)
    assert worst(passed, 1_000_000) == 100
    refused = [entry for entry in lines.entries if entry["outcome"] == "limited"]
    assert {entry["limit"] for entry in refused} == {"per-client"}


def test_a_renamed_file_is_opened_anew_and_no_line_is_lost(
    start_daemon: StartDaemon, nginx: Nginx, gunicorn: Gunicorn, tmp_path: Path
) -> None:
    path, renamed = tmp_path / "access.log", tmp_path / "access.log.1"
    daemon = start_daemon(*configured(tmp_path, nginx, gunicorn, f"{{destination: {path}}}"), workers=2)
    load = subprocess.Popen(
        ["h2load", "--h1", "-n", "20000", "-c", "10", f"{daemon.url}/fast/"], stdout=subprocess.DEVNULL
    )
    wait_until(lambda: path.stat().st_size > 0, "the first lines")
    path.rename(renamed)
    daemon.send(signal.SIGUSR1)
    wait_until(path.exists, "the file is there again")
    assert load.wait(30) == 0
    lines, _ = settled_lines(daemon, renamed, path)
    assert lines.outcomes() == {"forwarded": 20_000}
    assert AccessLines.read(renamed).entries, "lines before the rename"
    assert AccessLines.read(path).entries, "lines after it"
    assert "reopened" in daemon.stderr


class StalledReader:
    """The reading end of a pipe that will be the standard output of the next daemon; reads when told to."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self._path = directory / "ratelimitd.stdout"
        os.mkfifo(self._path)
        self._seen = bytearray()
        self._fd = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK)

    def read(self) -> bytes:
        """All that has come so far."""
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self._fd, 65_536):
                self._seen += part
        return bytes(self._seen)

    def lines(self) -> int:
        return self.read().count(b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Puts an empty file in its place, for what judges the daemon when the test is over."""
        os.close(self._fd)
        self._path.unlink()
        self._path.touch()


@pytest.fixture
def reader(start_daemon: StartDaemon, tmp_path: Path) -> Iterator[StalledReader]:
    """It needs the daemons because it must be gone before they are judged."""
    assert start_daemon is not None
    with StalledReader(tmp_path / "daemon-0") as stalled:
        yield stalled


def test_a_reader_that_stands_still_costs_lines_and_nothing_else(
    start_daemon: StartDaemon, nginx: Nginx, reader: StalledReader, tmp_path: Path
) -> None:
    daemon = start_daemon(*unshed(tmp_path, nginx.url))
    counted = h2load(f"{daemon.url}/", requests=20_000, connections=10)
    assert counted.ok == 20_000
    dropped = wait_until(lambda: daemon.metrics().total(DROPPED), "lines are dropped and counted")
    flags = int(Path(f"/proc/{daemon.pid}/fdinfo/1").read_text().split("flags:")[1].split()[0], 8)
    assert not flags & os.O_NONBLOCK, "whoever gave us this pipe shares it"
    wait_until(
        lambda: reader.lines() == 20_000 - dropped, "all that was not dropped comes when somebody reads"
    )
    assert AccessLines.parse(reader.read()).outcomes() == {"forwarded": 20_000 - dropped}
    assert daemon.metrics().total(DROPPED) == dropped
    exchange(daemon, request("/after"))
    wait_until(lambda: b"/after" in reader.read(), "the log goes on")


@pytest.mark.usefixtures("reader")
def test_a_reader_that_stands_still_does_not_keep_the_daemon_from_ending(
    start_daemon: StartDaemon, nginx: Nginx, tmp_path: Path
) -> None:
    daemon = start_daemon(*unshed(tmp_path, nginx.url))
    h2load(f"{daemon.url}/", requests=2_000, connections=10)
    daemon.send(signal.SIGTERM)
    assert daemon.wait(8) == 0
    assert "its reader stands still" in daemon.stderr


def test_lines_of_killed_workers_are_written(
    start_daemon: StartDaemon, nginx: Nginx, reader: StalledReader, tmp_path: Path
) -> None:
    daemon = start_daemon(*unshed(tmp_path, nginx.url))
    for _ in range(2):
        assert h2load(f"{daemon.url}/", requests=2_000, connections=10).ok == 2_000
        (victim,) = daemon.workers()
        os.kill(victim, signal.SIGKILL)
        wait_until(partial(replaced, daemon, victim), "another worker serves")
    counted = daemon.settled_metrics().total(REQUESTS)
    # A worker that dies between sending an answer and counting it has neither counted nor logged it.
    assert 3_998 <= counted <= 4_000
    wait_until(lambda: reader.lines() == counted, "all lines of both")
    assert AccessLines.parse(reader.read()).outcomes() == {"forwarded": counted}


def replaced(daemon: Daemon, victim: int) -> bool:
    return victim not in daemon.workers() and daemon.metrics().total("ratelimitd_workers") == 1


def test_a_reload_changes_where_and_how_it_is_written(
    start_daemon: StartDaemon, nginx: Nginx, gunicorn: Gunicorn, tmp_path: Path
) -> None:
    first, second = tmp_path / "first.log", tmp_path / "second.log"
    daemon = start_daemon(*configured(tmp_path, nginx, gunicorn, f"{{destination: {first}}}"))

    def reload(log: str, result: str) -> None:
        before = daemon.metrics().total(RELOADS, result=result)
        configured(tmp_path, nginx, gunicorn, log)
        daemon.send(signal.SIGHUP)
        wait_until(lambda: daemon.metrics().total(RELOADS, result=result) > before, f"{result}: {log}")

    exchange(daemon, request("/fast/1"))
    reload(f"{{destination: {tmp_path}/missing/access.log}}", "refused")
    exchange(daemon, request("/fast/2"))
    assert "cannot open" in daemon.stderr
    wait_until(lambda: len(AccessLines.read(first).entries) == 2, "the old file stays in use")
    reload(f"{{access: combined, destination: {second}}}", "success")
    exchange(daemon, request("/fast/3"))
    assert "GET /fast/3" in wait_until(second.read_text, "a line in the new file")
    reload(f"{{access: none, destination: {second}}}", "success")
    exchange(daemon, request("/fast/4"))
    reload(f"{{destination: {first}, sample: 0}}", "success")
    exchange(daemon, request("/fast/5"))
    exchange(daemon, request("/nowhere"))
    wait_until(lambda: len(AccessLines.read(first).entries) == 3, "what was not forwarded is always logged")
    assert [entry["target"] for entry in AccessLines.read(first).entries] == [
        "/fast/1",
        "/fast/2",
        "/nowhere",
    ]
    assert second.read_text().count("\n") == 1


def test_a_log_that_cannot_be_opened_is_said_at_the_start(
    start_daemon: StartDaemon, nginx: Nginx, gunicorn: Gunicorn, tmp_path: Path
) -> None:
    arguments = configured(tmp_path, nginx, gunicorn, f"{{destination: {tmp_path}}}")
    daemon = start_daemon(*arguments, ready=False)
    daemon.expected_exit_code = 1
    assert daemon.wait() == 1
    assert f"cannot open {tmp_path}: Is a directory" in daemon.stderr
