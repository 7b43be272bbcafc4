"""slowhttptest with 4,000 connections that send their heads, send their bodies or read their answers slowly.

Other clients are served beside them as if nobody was there, and such a connection costs the daemon no more
than it would cost any proxy. The deadlines that would end them are longer than the test, so that all of
them stay however long slowhttptest takes to open them. Each mode has a daemon of its own: one that has
served the mode before would have its memory already.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import StartDaemon
from tests.daemon import Daemon
from tests.open_loop import Load, open_loop
from tests.servers import Nginx, Process, wait_until

CONNECTIONS = 4_000
MOST_KIB = 6
NOISE_US = 3_000
RATE = 200
FILE = """
upstreams: {web: {servers: ["%s"]}}
bounds: {connections_per_client: 10000}
timeouts: {head: 2m, body: 2m}
log: {access: none}
"""
MODES = {
    "heads": ["-H", "-x", "24"],
    "bodies": ["-B", "-s", "8192", "-x", "10"],
    "readers": ["-X", "-w", "10", "-y", "20", "-n", "5", "-z", "32"],
}

pytestmark = [pytest.mark.slow, pytest.mark.timing]


def pss_kib(daemon: Daemon) -> int:
    return sum(
        int(line.split()[1])
        for pid in [daemon.pid, *daemon.workers()]
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        if line.startswith("Pss:")
    )


def attack(directory: Path, daemon: Daemon, mode: str) -> Process:
    binary = shutil.which("slowhttptest")
    assert binary is not None, "slowhttptest is not installed: scripts/prepare test"
    numbers = ["-c", str(CONNECTIONS), "-r", "2000", "-i", "10", "-l", "90", "-p", "3"]
    command = [binary, *MODES[mode], *numbers, "-u", f"{daemon.url}/content"]
    return Process("slowhttptest", command, directory)


def others(daemon: Daemon, seconds: float) -> Load:
    """What other clients see: every request, by when it was due."""
    load = open_loop(daemon.port, rate=RATE, seconds=seconds, connections=20, critical=2)
    for each in (load.critical, load.sheddable):
        assert each.ok == each.due == each.sent, each
    return load


def p99_us(load: Load) -> int:
    return max(load.critical.p99_us, load.sheddable.p99_us)


@pytest.mark.parametrize("mode", list(MODES))
def test_others_are_served_as_before(
    start_daemon: StartDaemon, nginx: Nginx, tmp_path: Path, mode: str
) -> None:
    file = tmp_path / "ratelimitd.yaml"
    file.write_text(FILE % nginx.url)
    daemon = start_daemon("-c", str(file), workers=2)

    def connections() -> float:
        return daemon.metrics().total("ratelimitd_connections")

    idle_us = p99_us(others(daemon, 5))
    before, before_kib = connections(), pss_kib(daemon)
    with attack(tmp_path, daemon, mode) as process:
        wait_until(lambda: connections() >= before + CONNECTIONS, "all of them are there", 45)
        held_kib = pss_kib(daemon) - before_kib
        busy_us = p99_us(others(daemon, 5))
        still = connections()
        assert process.exit_code is None, process.stdout
    print(f"{mode}: {held_kib / CONNECTIONS:.2f} KiB each; p99 {idle_us} us idle, {busy_us} us beside")
    assert still >= before + 0.95 * CONNECTIONS
    assert held_kib <= MOST_KIB * CONNECTIONS
    assert busy_us < 2 * idle_us + NOISE_US
