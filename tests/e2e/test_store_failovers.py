"""A store of several servers loses one, or moves what it holds: one outage, and the limit holds."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from redis.crc import key_slot

from tests.e2e.fleet import Fleet, assert_answers, assert_quick, assert_within, fleet_of, now_us
from tests.e2e.trial import BACK_WITHIN_S, PATHS, RATE, Trial, assert_said, most_dials
from tests.fleet_load import Answer
from tests.redis_servers import Cluster, Redis, Sentinels
from tests.servers import Nginx, wait_until
from tests.store_proxy import Doorkeeper

pytestmark = pytest.mark.slow


def test_sentinel_failover(tmp_path: Path, nginx: Nginx) -> None:
    with Sentinels(tmp_path / "redis") as sentinels:
        with fleet_of(tmp_path, nginx.url, sentinels.url, [RATE]) as fleet:
            trial = Trial(fleet, seconds=15)
            trial.pass_time()
            before = sentinels.master
            before.kill()
            with Doorkeeper(before.port) as door:
                began = time.monotonic()
                trial.lost()
                sentinels.wait_failed_over(before)
                trial.back()
                seconds = time.monotonic() - began
            trial.judge()
    others = 10 * seconds  # two links of each Sentinel, and the replica's
    assert door.dials <= most_dials(fleet, seconds) + others


def test_the_old_master_becomes_a_replica(tmp_path: Path, nginx: Nginx) -> None:
    """A failover by hand, with nobody dead: the old one serves on until the Sentinels make it a replica, some
    seconds later, and what it was told meanwhile is told to the new one."""
    with Sentinels(tmp_path / "redis") as sentinels:
        with fleet_of(tmp_path, nginx.url, sentinels.url, [RATE]) as fleet:
            trial = Trial(fleet, seconds=25)
            old = sentinels.master
            sentinels.failover()
            wait_until(lambda: old.role == "slave", "the old master is a replica", 20)
            wait_lost_and_back(fleet)
            back_us = now_us()
            answers = judge_back(fleet, trial, back_us)
    assert_used_at_the_end(answers, after_us=back_us + 1_000_000)


def test_a_slot_of_a_cluster_moves(tmp_path: Path, nginx: Nginx) -> None:
    """Who meets MOVED gets the fallback; then the map is read, and the limit is shared as before."""
    with Cluster(tmp_path / "redis") as cluster:
        with fleet_of(tmp_path, nginx.url, cluster.url, [RATE]) as fleet:
            trial = Trial(fleet, seconds=8)
            trial.pass_time()
            key = some_key(cluster)
            target = next(master for master in cluster.masters if master is not cluster.owner(key))
            cluster.move_slot(key_slot(key), target)
            moved_us = now_us()
            wait_lost_and_back(fleet)
            fleet.wait_store(up=True, within_s=BACK_WITHIN_S)
            answers = judge_back(fleet, trial, now_us())
    assert_used_at_the_end(answers, after_us=moved_us + 3_000_000)


def test_a_master_of_a_cluster_is_killed(tmp_path: Path, nginx: Nginx) -> None:
    with Cluster(tmp_path / "redis", replicas=True) as cluster:
        with fleet_of(tmp_path, nginx.url, cluster.url, [RATE]) as fleet:
            trial = Trial(fleet, seconds=20)
            trial.pass_time()
            cluster.masters[0].kill()
            with Doorkeeper(cluster.masters[0].port) as door:
                began = time.monotonic()
                trial.lost()
                wait_until(lambda: has_failed_over(cluster), "a failover", 15)
                trial.back()
                seconds = time.monotonic() - began
            trial.judge()
    assert door.dials <= 2 * most_dials(fleet, seconds), "its map is asked for there too"


def wait_lost_and_back(fleet: Fleet) -> None:
    for node in fleet.nodes:
        wait_until(lambda node=node: len(node.events()) >= 2, "lost and back", 10)  # type: ignore[misc]


def judge_back(fleet: Fleet, trial: Trial, back_us: int) -> list[Answer]:
    """What holds whatever was moved, once all share again since `back_us`: all answers."""
    answers = trial.answers()
    assert_answers(answers, 200, 429)
    assert_quick(answers, fleet.deadline_ms)
    admitted = fleet.admitted()
    for node in fleet.nodes:
        assert_said(fleet, node.index, 2)
    assert_within(admitted, RATE, RATE.most_while_lost(len(fleet.nodes)))
    assert_within(admitted, RATE, RATE.count, after_us=back_us)
    return answers


def has_failed_over(cluster: Cluster) -> bool:
    """The replica of the first master is in its place, and all that live say that no slot lacks a master:
    that they say, too, until they have noticed its end."""
    return any(node.role == "master" for node in cluster.nodes[3:]) and all(map(is_whole, cluster.nodes[1:]))


def is_whole(node: Redis) -> bool:
    with node.client() as client:
        said = client.execute_command("CLUSTER", "INFO")
    return "cluster_state:ok" in (said.decode() if isinstance(said, bytes) else str(said))


def some_key(cluster: Cluster) -> bytes:
    """One of the limit's."""
    for master in cluster.masters:
        with master.client() as client:
            for key in client.keys("rl:{shared*"):
                return bytes(key)
    raise AssertionError("no key of the limit is there")


def assert_used_at_the_end(answers: list[Answer], after_us: int) -> None:
    """The limit was used once all was over: it is shared again."""
    late = [answer for answer in answers if answer.sent_us > after_us]
    seconds = (late[-1].sent_us - after_us) / 1e6
    admitted = sum(answer.status == 200 for answer in late)
    assert admitted >= 0.85 * RATE.count * PATHS * (seconds / RATE.window_s - 1), (
        f"{admitted} in {seconds:.1f} s"
    )
