"""`ratelimitd demo`, as a newcomer runs it: it serves, refuses what it said it would, ends with Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import COMMAND
from tests.servers import Process, wait_until
from tests.tools.demos import shell, text

# Two that start at the same moment may choose the same port: these run alone.
pytestmark = pytest.mark.timing


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Process]:
    with Process("demo", [*COMMAND, "demo"], tmp_path) as process:
        yield process


def test_what_it_says_is_what_happens(demo: Process) -> None:
    said = text(demo)
    (loop,) = re.findall(r"^ *(for i in .*; done)$", said, re.MULTILINE)
    (metrics,) = re.findall(r"^ *(curl \S+ \S+/metrics .*)$", said, re.MULTILINE)
    first = re.findall(r"^ *(curl -i \S+)$", said, re.MULTILINE)[0]
    assert shell(loop).split() == ["200"] * 20 + ["429"] * 10
    refused = shell(first)
    assert refused.startswith("HTTP/1.1 429 ")
    assert re.search(r"^retry-after: \d+$", refused, re.IGNORECASE | re.MULTILINE)
    counted = shell(metrics)
    assert re.search(r'^ratelimitd_requests_total\{.*outcome="limited".*\} 11\.0$', counted, re.MULTILINE)


def test_ctrl_c_ends_it_and_its_web_server(demo: Process) -> None:
    text(demo)
    children = Path(f"/proc/{demo.pid}/task/{demo.pid}/children").read_text().split()
    os.killpg(demo.pid, signal.SIGINT)
    assert demo.wait() == 0
    assert "Traceback" not in demo.stderr
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), "no process is left")


def test_two_of_them_use_different_ports(demo: Process, tmp_path: Path) -> None:
    ports = set(re.findall(r"127\.0\.0\.1:(\d+)/", text(demo)))
    with Process("other", [*COMMAND, "demo"], tmp_path) as other:
        assert not ports & set(re.findall(r"127\.0\.0\.1:(\d+)/", text(other)))


def test_the_sample_server_ends_with_whoever_started_it() -> None:
    command = [sys.executable, "-m", "ratelimitd.tools.sample_server"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdin is not None
        assert int(server.stdout.readline()) > 0
        server.stdin.close()
        assert server.wait(10) == 0
