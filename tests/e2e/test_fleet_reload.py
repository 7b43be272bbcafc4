"""Limits change by a reload while a fleet is under load.

What was counted stays, and the new count holds for what follows; another window is another limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.fleet import Fleet, Rate, assert_answers, assert_within, fleet_of, now_us
from tests.e2e.trial import PATHS, Trial
from tests.redis_servers import Redis
from tests.servers import Nginx


def reload(fleet: Fleet, rate: Rate) -> int:
    """All nodes, one after the other, each under load; gives when the last one had it."""
    for node in fleet.nodes:
        node.configure([rate])
        node.reload()
    return now_us()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    with Redis(tmp_path / "redis") as server:
        yield server


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(40, 100), (100, 30)], ids=["raised", "lowered"])
def test_another_count(tmp_path: Path, nginx: Nginx, redis: Redis, before: int, after: int) -> None:
    """What was counted stays; the new size holds for what follows, and the larger one all the time."""
    old, new = Rate(before, 1), Rate(after, 1)
    with fleet_of(tmp_path, nginx.url, redis.url, [old]) as fleet:
        trial = Trial(fleet, old, seconds=7, load=PATHS * 250)
        trial.pass_time()
        reloaded_us = reload(fleet, new)
        answers = trial.answers()
        assert_answers(answers, 200, 429)
        admitted = fleet.admitted()
        leases_us = old.window_us // 4  # five slots of 31, which were granted before
        assert_within(admitted, old, max(before, after))
        assert_within(admitted, new, after, after_us=reloaded_us + leases_us)
        late = [a for a in answers if a.sent_us > reloaded_us + new.window_us and a.status == 200]
        seconds = (answers[-1].sent_us - reloaded_us) / 1e6 - 1
        assert len(late) >= 0.85 * after * PATHS * (seconds - 1), "a denial of the old size is not believed"
        assert all("what was counted stays" in node.daemon.stderr for node in fleet.nodes), "it says so"


@pytest.mark.slow
def test_another_window_is_another_limit(tmp_path: Path, nginx: Nginx, redis: Redis) -> None:
    old, new = Rate(40, 1), Rate(60, 2)
    with fleet_of(tmp_path, nginx.url, redis.url, [old]) as fleet:
        trial = Trial(fleet, old)
        trial.pass_time()
        first_us = now_us()
        reloaded_us = reload(fleet, new)
        answers = trial.answers()
        assert_answers(answers, 200, 429)
        admitted = fleet.admitted()
        before = {path: [i for i in instants if i < first_us] for path, instants in admitted.items()}
        assert_within(before, old, old.count)
        assert_within(admitted, new, new.count, after_us=reloaded_us + old.window_us // 4)
        assert all("counts start fresh" in node.daemon.stderr for node in fleet.nodes), "the reload says so"


def test_limits_are_the_same_whatever_a_node_met_first(tmp_path: Path, nginx: Nginx, redis: Redis) -> None:
    """Nodes that were given their limits in another order, or others before, share each of them."""
    one, other = Rate(4, 3600, "/one", "one"), Rate(3, 3600, "/other", "other")
    with fleet_of(tmp_path, nginx.url, redis.url, [one, other]) as fleet:
        first, second = fleet.nodes
        second.daemon.stop()
        second.configure([Rate(9, 60, "/gone", "gone"), other])
        second.restart()
        second.configure([other, one])
        second.reload()
        statuses = [node.ask("/one1") for node in 4 * (first, second)]
        assert sorted(statuses) == [200] * 4 + [429] * 4
        statuses = [node.ask("/other1") for node in 4 * (first, second)]
        assert sorted(statuses) == [200] * 3 + [429] * 5
