"""Reloads under load: a good one costs nobody anything and is in force when it is reported, a wrong one is
refused with its place and leaves no trace.

The gate does ten of each; the full number, and how long a refusal takes, are for `make test-slow`.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import re
import shutil
import statistics
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import msgspec
import pytest

from ratelimitd.control.answers import LimitsAnswer, ReloadAnswer
from tests.config.test_corpus import CORPUS, INVALID, expected
from tests.conftest import StartDaemon
from tests.control.admin_client import ask
from tests.daemon import Daemon
from tests.e2e.steady import SteadyLoad
from tests.e2e.watch import Watch
from tests.load import Wrk, wrk
from tests.servers import LOOPBACK, Nginx

CONNECTIONS: Final = 24
IDLE: Final = 40
MOST_GROWTH_KIB: Final = 1_024

# Shedding has tests of its own; here nothing but a reload may refuse.
FILE: Final = """
upstreams: {{web: {{servers: ['{url}']}}}}
admin: {{socket: '{socket}'}}
shedding: {{cpu_pressure: {{signal: none}}}}
limits:
  - {{name: per-client, per: client, rate: 1M/s}}
  - {{name: probe, per: "header:X-Probe", missing: skip, rate: {rate}/1h}}
"""


class Running:
    """A daemon of two workers under steady load, and its file; `rate` is what its limit admits to a key."""

    def __init__(self, start_daemon: StartDaemon, nginx: Nginx, directory: Path) -> None:
        directory.mkdir()
        self.file = directory / "ratelimitd.yaml"
        self.socket = directory / "admin.sock"
        self.rate = 5
        self._url = nginx.url
        self._keys = itertools.count()
        self.write(self.rate)
        self.daemon = start_daemon("-c", str(self.file), workers=2)

    def write(self, rate: int) -> None:
        self.file.write_text(FILE.format(url=self._url, socket=self.socket, rate=rate))

    def reload(self) -> tuple[ReloadAnswer, float]:
        """What the daemon says, and after how many milliseconds."""
        start = time.perf_counter()
        _, _, body = ask(self.socket, "POST", "/api/reload")
        took_ms = (time.perf_counter() - start) * 1000
        return msgspec.json.decode(body, type=ReloadAnswer), took_ms

    def assert_in_force(self) -> None:
        """A key that nobody has used gets what the limit says, on new connections, so from either worker."""
        key = str(next(self._keys))
        answered = [self._probe(key) for _ in range(self.rate + 1)]
        assert answered == [200] * self.rate + [429]

    def _probe(self, key: str) -> int:
        connection = http.client.HTTPConnection(LOOPBACK, self.daemon.port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", "/", headers={"X-Probe": key})
            return connection.getresponse().status


@contextlib.asynccontextmanager
async def under_load(daemon: Daemon) -> AsyncIterator[None]:
    """Steady requests, connections that stay idle and scrapes; fails when one of them was disturbed."""
    load, watch = SteadyLoad(daemon.port, CONNECTIONS), Watch(daemon)
    load.start()
    watch.start()
    idle = [http.client.HTTPConnection(LOOPBACK, daemon.port, timeout=10) for _ in range(IDLE)]
    try:
        for connection in idle:
            assert status_on(connection) == 200
        places = [connection.sock.getsockname() for connection in idle]
        yield
        for connection, place in zip(idle, places, strict=True):
            assert connection.sock.getsockname() == place
            assert status_on(connection) == 200, "an idle connection was closed"
    finally:
        for connection in idle:
            connection.close()
        await load.stop()
        await watch.stop()
    assert [connection for connection in load.connections if connection.lost] == []
    assert len(load.connections) == CONNECTIONS, "a connection was closed between two requests"
    assert load.answers().keys() == {200}
    assert load.answers()[200] > CONNECTIONS
    assert watch.gone_back == []


def status_on(connection: http.client.HTTPConnection) -> int:
    """The status of one request on a connection that is not opened anew."""
    connection.auto_open = connection.sock is None
    connection.request("GET", "/")
    answer = connection.getresponse()
    answer.read()
    return answer.status


# --- good ones


async def reload_well(running: Running, goes_on: Callable[[int], bool]) -> None:
    """Reloads, each with another rate, while `goes_on(how many)` says so."""
    async with under_load(running.daemon):
        for number in itertools.count(1):
            old, running.rate = running.rate, (1, 6, 3, 9, 2)[number % 5]
            running.write(running.rate)
            answer, _ = await asyncio.to_thread(running.reload)
            assert answer.changes == (
                f"limit probe: rate {old}/h -> {running.rate}/h; what was counted stays",
            ), answer
            await asyncio.to_thread(running.assert_in_force)
            if not goes_on(number):
                break


@pytest.fixture
def running(start_daemon: StartDaemon, nginx: Nginx, tmp_path: Path) -> Running:
    return Running(start_daemon, nginx, tmp_path / "etc")


def test_a_good_reload_disturbs_nobody(running: Running) -> None:
    asyncio.run(reload_well(running, lambda number: number < 10))
    metrics = running.daemon.settled_metrics()
    assert metrics.total("ratelimitd_config_reloads_total", result="success") == 10
    assert metrics.total("ratelimitd_worker_restarts_total") == 0


@pytest.mark.slow
@pytest.mark.timing
def test_a_hundred_good_reloads_under_full_load(running: Running) -> None:
    async def both() -> Wrk:
        full = asyncio.create_task(asyncio.to_thread(wrk, running.daemon.url, connections=64, seconds=30))
        await reload_well(running, lambda number: number < 100 or not full.done())
        return await full

    counted = asyncio.run(both())
    assert counted.requests > 10_000
    assert (counted.socket_errors, counted.refused) == (0, 0)


# --- wrong ones


def memory_kib(daemon: Daemon) -> dict[int, int]:
    """What the supervisor and each worker have for themselves. The segment is not among it: the load fills it
    with log lines and counts while nothing is reloaded too."""
    found = {}
    for pid in (daemon.pid, *daemon.workers()):
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        (own,) = re.findall(r"^Anonymous: +([0-9]+) kB$", rollup, re.MULTILINE)
        found[pid] = int(own)
    return found


def places(problems: list[str]) -> list[str]:
    """FILE:LINE:COLUMN of each problem."""
    return [":".join(problem.split(":", 3)[:3]) for problem in problems]


def told(path: Path, running: Running) -> list[str]:
    """The problems of a file of the corpus, as the daemon tells them of its own file."""
    problems = [line.replace("DIRECTORY", str(running.file.parent)) for line in expected(path)]
    return [line if line.startswith("/") else f"{running.file}:{line}" for line in problems]


def limits(running: Running) -> list[tuple[str, tuple[str, ...]]]:
    body = ask(running.socket, "GET", "/api/limits")[2]
    return [(limit.name, limit.rates) for limit in msgspec.json.decode(body, type=LimitsAnswer).limits]


async def refuse(running: Running, files: list[Path]) -> list[float]:
    """Reloads each of `files` in vain; how many milliseconds each took."""
    shutil.copytree(CORPUS / "invalid", running.file.parent, dirs_exist_ok=True)
    in_force = limits(running)
    took_ms = []
    for path in files:
        running.file.write_bytes(path.read_bytes())
        answer, took = await asyncio.to_thread(running.reload)
        assert answer.result == "refused", path
        assert places(answer.reason.split(" | ")) == places(told(path, running)), answer
        assert limits(running) == in_force
        took_ms.append(took)
    await asyncio.to_thread(running.assert_in_force)
    return took_ms


# What hangs on variables says something else where these are not set.
BROKEN: Final = [path for path in INVALID if not path.stem.startswith("environment_variable")]


def spread(number: int) -> list[Path]:
    """So many of all that can be wrong."""
    return [BROKEN[index * len(BROKEN) // number] for index in range(number)]


async def refuse_under_load(running: Running, files: list[Path]) -> list[float]:
    async with under_load(running.daemon):
        await refuse(running, files[:5])  # what is loaded by the first refusal of all is no growth
        before = memory_kib(running.daemon)
        took_ms = await refuse(running, files)
        after = memory_kib(running.daemon)
    assert after.keys() == before.keys()
    growth = {pid: after[pid] - before[pid] for pid in before}
    assert max(growth.values()) < MOST_GROWTH_KIB, growth
    running.write(running.rate)
    answer, _ = running.reload()
    assert (answer.result, answer.changes) == ("success", ())
    return took_ms


def test_a_wrong_reload_is_refused_and_changes_nothing(running: Running) -> None:
    asyncio.run(refuse_under_load(running, spread(10)))
    metrics = running.daemon.settled_metrics()
    assert metrics.total("ratelimitd_config_reloads_total", result="refused") == 15


@pytest.mark.slow
@pytest.mark.timing
def test_a_hundred_wrong_reloads_are_refused_within_100_ms(running: Running) -> None:
    took_ms = asyncio.run(refuse_under_load(running, spread(100)))
    cuts = [round(cut) for cut in statistics.quantiles(took_ms, n=100)]
    print(f"refused in ms: median {cuts[49]}, p95 {cuts[94]}, longest {max(took_ms):.0f}")
    assert max(took_ms) < 100, sorted(took_ms)[-10:]
