"""`make demo-fleet`, as a newcomer runs it: two daemons count together, and go on without their Valkey."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import has_ended
from tests.servers import Process, wait_until
from tests.tools.demos import shell, text

# Two that start at the same moment may choose the same port: these run alone.
pytestmark = pytest.mark.timing


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Process]:
    with Process("demo", [sys.executable, "-m", "ratelimitd.tools.demo_fleet"], tmp_path) as process:
        yield process


def test_what_it_says_is_what_happens(demo: Process) -> None:
    said = text(demo)
    (loop,) = re.findall(r"^ *(for i in .*; done)$", said, re.MULTILINE)
    (metrics,) = re.findall(r"^ *(curl \S+ \S+/metrics .*)$", said, re.MULTILINE)
    assert shell(loop).split() == ["200"] * 20 + ["429"] * 10
    assert "ratelimitd_store_up 1.0" in shell(metrics)
    hang, go_on = re.findall(r"^ *(kill -\w+ \d+)$", said, re.MULTILINE)
    shell(hang)
    wait_until(lambda: "ratelimitd_store_up 0.0" in shell(metrics), "it notices that the Valkey hangs")
    assert set(shell(loop).split()) <= {"200", "429"}
    shell(go_on)
    wait_until(lambda: "ratelimitd_store_up 1.0" in shell(metrics), "it shares again")


def test_ctrl_c_ends_all_of_it(demo: Process) -> None:
    text(demo)
    children = Path(f"/proc/{demo.pid}/task/{demo.pid}/children").read_text().split()
    assert len(children) == 4
    os.killpg(demo.pid, signal.SIGINT)
    assert demo.wait() == 0
    assert "Traceback" not in demo.stderr
    wait_until(lambda: all(has_ended(int(pid)) for pid in children), "no process is left")
