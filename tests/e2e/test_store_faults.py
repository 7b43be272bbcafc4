"""Everything that can happen to a store that is one server, under load, with the real server."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.fleet import Fleet, Rate, assert_answers, assert_quick, assert_within, fleet_of, now_us
from tests.e2e.trial import FALLBACK, PATHS, RATE, Trial, assert_said, most_dials
from tests.fleet_load import BROKEN
from tests.proxy.talking import Client, get
from tests.redis_servers import Redis
from tests.servers import Nginx, free_port, wait_until
from tests.store_proxy import Doorkeeper, StoreProxy


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    with Redis(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def way(redis: Redis) -> Iterator[StoreProxy]:
    with StoreProxy(redis.port) as way:
        yield way


@contextmanager
def fleet_at(url: str, directory: Path, nginx: Nginx, **how: Any) -> Iterator[Fleet]:
    with fleet_of(directory, nginx.url, url, how.pop("limits", [RATE]), **how) as fleet:
        yield fleet


def received(redis: Redis) -> int:
    """How many connections it has accepted."""
    with redis.client() as client:
        return int(client.info("stats")["total_connections_received"])


def test_killed_and_started_again(tmp_path: Path, nginx: Nginx, redis: Redis) -> None:
    with fleet_at(redis.url, tmp_path, nginx) as fleet:
        trial = Trial(fleet)
        trial.pass_time()
        redis.send(signal.SIGKILL)
        redis.wait()
        with Doorkeeper(redis.port) as door:
            trial.lost()
            began = time.monotonic()
            trial.pass_time()
            dials, seconds = door.dials, time.monotonic() - began
        with Redis(tmp_path / "again", port=redis.port):
            trial.back()
            trial.judge()
    assert dials <= most_dials(fleet, seconds)


@pytest.mark.slow
def test_stopped_and_continued(tmp_path: Path, nginx: Nginx, redis: Redis) -> None:
    with fleet_at(redis.url, tmp_path, nginx) as fleet:
        trial = Trial(fleet)
        trial.pass_time()
        before, began = received(redis), time.monotonic()
        redis.send(signal.SIGSTOP)
        trial.lost()
        trial.pass_time()
        redis.send(signal.SIGCONT)
        trial.back()
        assert received(redis) - before <= most_dials(fleet, time.monotonic() - began)
        trial.judge()


@pytest.mark.slow
def test_answers_after_a_second(tmp_path: Path, nginx: Nginx, way: StoreProxy) -> None:
    with fleet_at(way.url, tmp_path, nginx) as fleet:
        trial = Trial(fleet, seconds=8)
        trial.pass_time()
        before = way.dials
        way.delay_replies(1.0)
        trial.lost()
        trial.pass_time(3)
        way.delay_replies(0.0)
        trial.back()
        trial.judge()
    assert way.dials - before <= most_dials(fleet, 3)


@pytest.mark.slow
def test_reset_in_the_middle_of_replies(tmp_path: Path, nginx: Nginx, way: StoreProxy) -> None:
    """An outage for a moment: the connection is there again at once, and nothing was said twice."""
    with fleet_at(way.url, tmp_path, nginx) as fleet:
        trial = Trial(fleet)
        trial.pass_time()
        before = way.dials
        way.cut_pieces(8)
        for node in fleet.nodes:
            wait_until(lambda node=node: len(node.events()) >= 2, "lost and back")  # type: ignore[misc]
        fleet.wait_store(up=True, within_s=3)
        back_us = now_us()
        assert way.dials - before <= most_dials(fleet, 3)
        answers = trial.answers()
        assert_answers(answers, 200, 429)
        assert_quick(answers, fleet.deadline_ms)
        admitted = fleet.admitted()
        assert_within(admitted, RATE, RATE.most_while_lost(len(fleet.nodes)))
        assert_within(admitted, RATE, RATE.count, after_us=back_us)
        for node in fleet.nodes:
            assert node.exceptions("store_lost") >= 1
            assert_said(fleet, node.index, len(node.events()))
            assert len(node.events()) <= 8, "one for each cut at most, and one for each return"


@pytest.mark.slow
def test_flushed_and_restarted_empty(tmp_path: Path, nginx: Nginx, redis: Redis) -> None:
    """What was counted is lost, without an outage that all see: at most twice the limit, and all is counted
    again soon."""
    with fleet_at(redis.url, tmp_path, nginx) as fleet:
        trial = Trial(fleet)
        trial.pass_time()
        with redis.client() as client:
            client.flushall()
        trial.pass_time()
        for node in fleet.nodes:
            wait_until(lambda node=node: node.exceptions("data_lost") >= 1, "data_lost")  # type: ignore[misc]
        flushed_us = now_us()
        redis.send(signal.SIGKILL)
        redis.wait()
        with Redis(tmp_path / "again", port=redis.port) as again:
            trial.pass_time()
            fleet.wait_store(up=True, within_s=3)
            assert received(again) <= most_dials(fleet, 3)
            answers = trial.answers()
            assert_answers(answers, 200, 429)
            assert_quick(answers, fleet.deadline_ms)
            admitted = fleet.admitted()
            assert_within(admitted, RATE, 2 * RATE.count)
            before = {path: [i for i in instants if i < flushed_us] for path, instants in admitted.items()}
            assert_within(before, RATE, RATE.count, after_us=flushed_us - 1_300_000)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lose", "mend"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
    ],
    ids=["full", "read-only"],
)
def test_answers_pings_but_takes_no_writes(
    tmp_path: Path, nginx: Nginx, redis: Redis, lose: tuple[str, ...], mend: tuple[str, ...]
) -> None:
    """One outage, however often it says PONG."""
    with fleet_at(redis.url, tmp_path, nginx) as fleet:
        trial = Trial(fleet)
        trial.pass_time()
        with redis.client() as client:
            before = client.info("stats")["total_connections_received"]
            client.execute_command(*lose)
            trial.lost()
            trial.pass_time()
            dials = client.info("stats")["total_connections_received"] - before
            client.execute_command(*mend)
            trial.back()
        trial.judge()
    assert dials <= most_dials(fleet, 3)


@pytest.mark.slow
def test_a_wrong_password(tmp_path: Path, nginx: Nginx, redis: Redis) -> None:
    """It starts without the store and says why; once the password is right, limits are shared."""
    password = tmp_path / "password"
    password.write_text("right\n")
    with redis.client() as client:
        client.config_set("requirepass", "another")
        options = f", password_file: {password}"
        with fleet_at(redis.url, tmp_path, nginx, options=options, ready=False) as fleet:
            assert not any(node.is_up() for node in fleet.nodes)
            trial = Trial(fleet)
            trial.lost()
            trial.pass_time()
            received = client.info("stats")["total_connections_received"]
            client.config_set("requirepass", "right")
            trial.back()
            trial.judge(anew=True)
            assert all("password" in node.lines()[0] for node in fleet.nodes)
    assert received <= most_dials(fleet, 10)


@pytest.mark.slow
def test_scripts_flushed(tmp_path: Path, nginx: Nginx, redis: Redis) -> None:
    with fleet_at(redis.url, tmp_path, nginx) as fleet:
        trial = Trial(fleet, seconds=3)
        with redis.client() as client:
            for _ in range(20):
                trial.pass_time(0.1)
                client.script_flush()
        trial.judge_calm()


@pytest.mark.slow
@pytest.mark.parametrize("shared_secret", [True, False])
def test_absent_at_the_start(tmp_path: Path, nginx: Nginx, shared_secret: bool) -> None:
    """It says so, and serves; Redis may come when it likes."""
    (tmp_path / "secret").write_text("0123456789abcdef" * 4)
    options = f", secret_file: {tmp_path / 'secret'}" if shared_secret else ""
    began = time.monotonic()
    with ExitStack() as stack:
        with Doorkeeper(free_port()) as door:
            fleet = stack.enter_context(fleet_at(door.url, tmp_path, nginx, ready=False, options=options))
            trial = Trial(fleet)
            trial.lost()
            trial.pass_time()
            assert door.dials <= most_dials(fleet, time.monotonic() - began)
        with Redis(tmp_path / "redis", port=door.port):
            trial.back()
            trial.judge(anew=not shared_secret)
            fleet.finish()


@pytest.mark.slow
def test_what_each_limit_does_without_it(tmp_path: Path, nginx: Nginx, redis: Redis) -> None:
    """`local`, `open` and `closed`, side by side."""
    local = Rate(20, 1, "/local", "local")
    opened = Rate(20, 1, "/open", "open", "open")
    closed = Rate(20, 1, "/closed", "closed", "closed")
    with fleet_at(redis.url, tmp_path, nginx, limits=[local, opened, closed]) as fleet:
        redis.send(signal.SIGSTOP)
        fleet.wait_store(up=False)
        paths = [rate.paths(1)[0] for rate in (local, opened, closed)]
        answers = fleet.load(paths, rate=240, seconds=3).answers()
        redis.send(signal.SIGCONT)
        fleet.wait_store(up=True, within_s=3)
        assert_quick(answers, fleet.deadline_ms)
        by_path = [{a.status for a in answers if a.path == path} for path in range(3)]
        assert by_path == [{200, 429}, {200}, {503}]


def test_a_worker_that_stood_still_asks_once_more(tmp_path: Path, nginx: Nginx, way: StoreProxy) -> None:
    """Its request waited beyond the deadline and lacks a unit again, but the store answered in time all the
    while: that is no reason to decide without it."""
    limits = [Rate(1000, 1, "/", "all", per="global"), Rate(10, 1)]
    with fleet_at(way.url, tmp_path, nginx, limits=limits, nodes=1, deadline_ms=200) as fleet:
        (node,) = fleet.nodes
        (worker,) = node.daemon.workers()
        way.delay_replies(0.03)
        for path in RATE.paths(4):
            assert [node.ask("/warm") for _ in range(4)] == [200] * 4  # a lease of the one limit
            with Client(node.port) as client:
                client.send(get(path))
                time.sleep(0.01)  # it waits for a unit of the other
                os.kill(worker, signal.SIGSTOP)
                time.sleep(0.4)  # the lease is over, and so is the deadline
                os.kill(worker, signal.SIGCONT)
                assert client.answer().status == 200
        metrics = node.daemon.metrics()
        assert metrics.total(FALLBACK) == metrics.total("ratelimitd_store_calls_total", result="late") == 0


@pytest.mark.slow
def test_a_worker_killed_while_it_waits(tmp_path: Path, nginx: Nginx, way: StoreProxy) -> None:
    """Its own connections break; nobody else notices, and what it had asked for is not lost for long."""
    with fleet_at(way.url, tmp_path, nginx, workers=2, deadline_ms=500) as fleet:
        way.delay_replies(0.05)
        trial = Trial(fleet)
        trial.pass_time()
        victim = fleet.nodes[0].daemon.workers()[0]
        os.kill(victim, signal.SIGKILL)
        killed_us = now_us()
        trial.pass_time(3)
        answers = trial.answers()
        broken = [answer for answer in answers if answer.status == BROKEN]
        assert {answer.node for answer in broken} <= {0}
        late = [answer for answer in answers if answer.sent_us > killed_us + 1_000_000]
        assert sum(answer.status == 200 for answer in late) >= 0.8 * RATE.count * PATHS * 2
        trial.judge_calm(BROKEN)
