"""A process may die at any store: what it leaves counts too much, never too little, and nothing is torn.

The dying decisions run in a build of the table in which every store is a crash point (tables.py); the ones
before and after them run in the table as it is shipped. The judge is the log of what was admitted: a dead
request was not answered, so it is not in it.
"""

from __future__ import annotations

import pytest

from ratelimitd.limits.table import Request
from tests.limits.model import worst
from tests.limits.sequences import Log, Scenario, record
from tests.limits.tables import Mortal, TableMemory

SECOND = 1_000_000
NOW = 100 * SECOND
EVERY_STORE = range(1, 200)  # more than any decision here makes: a range ends with one that survives


@pytest.mark.parametrize("block", range(10))
def test_sequences_with_deaths_stay_under_their_limits(block: int) -> None:
    deaths = 0
    for seed in range(block * 30, block * 30 + 30):
        scenario = Scenario(seed)
        memory = TableMemory(scenario.stripes)
        mortal = Mortal(memory)
        log: Log = {}
        for requests, now_us in scenario.steps(200):
            if scenario.random.random() < 0.3:
                stores = scenario.random.randint(1, scenario.random.choice((4, 12, 45)))
                deaths += mortal.decide(requests, now_us, stores)
            decision = memory.table.decide(requests, now_us)
            if decision.verdict == "admitted":
                record(log, requests, decision.at_us)
        assert scenario.over_the_limit(log) == [], f"seed {seed}"
        assert memory.table.verify() == [], f"seed {seed}"
        assert memory.table.counters().timeouts == 0
    assert deaths > 400


class Life:
    """One key of a window of 31 s, charged by requests that live and by one that dies."""

    def __init__(self, request: Request) -> None:
        self.memory = TableMemory()
        self.mortal = Mortal(self.memory)
        self.request = request
        self.log: list[tuple[int, int]] = []

    def charge(self, second: int, cost: int = 1, limit: int = 0, shift: int = 0) -> bool:
        request = self.request._replace(cost=cost)
        if limit:
            request = request._replace(limit=limit, shift=shift, generation=limit % 1_000)
        decision = self.memory.table.decide([request], NOW + second * SECOND)
        if decision.verdict == "admitted":
            self.log.append((decision.at_us, cost))
        return decision.verdict == "admitted"

    def fill(self, second: int) -> None:
        while self.charge(second):
            pass

    def die(self, second: int, store: int, limit: int = 0, shift: int = 0) -> bool:
        request = self.request._replace(limit=limit, shift=shift) if limit else self.request
        return self.mortal.decide([request], NOW + second * SECOND, store)

    def worst(self) -> int:
        return worst(self.log, 31 * SECOND)


@pytest.mark.parametrize("gap", [0, 1, 2, 5, 30, 31, 32, 40, 255, 256, 257, 512])
def test_a_death_at_each_store_of_a_decision(gap: int) -> None:
    """The ring is full of old charges, the decision closes a slot `gap` slots later, and dies."""
    for store in EVERY_STORE:
        life = Life(Request(1, SECOND, 12))
        for second in (0, 1, 7, 15, 22, 30):
            life.charge(second, cost=2)
        died = life.die(30 + gap, store)
        for later in (0, 0, 1, 2, 3, 14, 29, 30, 31, 32, 33):
            life.fill(30 + gap + later)
            assert life.worst() <= 12, f"store {store}, {later} s later"
            assert life.memory.table.verify() == []
        if not died:
            break
    assert not died
    assert store > (2 if gap == 0 else 6)


def test_a_death_while_an_entry_is_made_leaves_a_free_place_or_a_whole_entry() -> None:
    for store in EVERY_STORE:
        life = Life(Request(1 << 12, SECOND, 3, cost=2))
        for key in range(2, 18):  # every place once held a key, all of them are over
            life.memory.table.decide([Request(key << 12, 1_000, 9, limit_id=9)], NOW - 9 * SECOND)
        died = life.die(0, store)
        assert life.memory.table.verify() == []
        assert set(life.memory.table.count(0, 2, NOW)) <= {1}
        life.fill(0)
        assert life.worst() <= 3
        assert life.memory.table.verify() == []
        if not died:
            break
    assert not died


def test_a_death_while_a_live_entry_is_evicted() -> None:
    for store in EVERY_STORE:
        memory = TableMemory()
        for key in range(16):
            memory.table.decide([Request(key << 12, SECOND, 9, cost=1 + (key != 3))], NOW)
        died = Mortal(memory).decide([Request(99 << 12, SECOND, 9)], NOW, store)
        memory.table.decide([Request(99 << 12, SECOND, 9)], NOW)
        assert memory.table.verify() == []
        assert sum(memory.table.count(0, 2, NOW).values()) == 16
        assert memory.table.peek(3 << 12, SECOND, NOW) is None
        assert memory.table.counters().evicted == 1
        if not died:
            break
    assert not died


def test_a_place_never_looks_free_while_it_holds_a_count() -> None:
    """After a death the key is charged to its limit; its first expiry passes, and fifteen keys come."""
    for store in EVERY_STORE:
        life = Life(Request(1 << 12, SECOND, 5))
        life.charge(0)
        died = life.die(20, store)
        life.fill(20)
        for key in range(2, 17):
            life.memory.table.decide([Request(key << 12, 60 * SECOND, 9)], NOW + 40 * SECOND)
        life.fill(40)
        assert life.worst() <= 5, f"store {store}"
        assert life.memory.table.counters()[:3] == (0, 0, 0)
        if not died:
            break
    assert not died


@pytest.mark.parametrize("units", [100, 200_000, 900_000])
def test_a_limit_lowered_and_raised_again_with_a_death_at_each_store(units: int) -> None:
    for down in (True, False):
        for store in EVERY_STORE:
            life = Life(Request(1, SECOND, 1_000_000, shift=4))
            for second in (0, 3, 4):
                life.charge(second, cost=units // 3)
            if down:
                died = life.die(6, store, limit=1_000, shift=0)
                life.charge(7, limit=1_000, shift=0)
            else:
                life.charge(6, limit=1_000, shift=0)
                died = life.die(7, store, limit=1_000_000, shift=4)
            for cost in (
                500_000,
                250_000,
                125_000,
                62_500,
                31_250,
                20_000,
                10_000,
                5_000,
                1_000,
                500,
                100,
                10,
                1,
            ):
                while life.charge(8, cost=cost, limit=1_000_000, shift=4):
                    pass
            assert life.worst() <= 1_000_000, f"store {store}"
            assert life.memory.table.verify() == []
            if not died:
                break
        assert not died


def test_a_death_while_a_key_is_banned() -> None:
    for present in (True, False):
        for store in EVERY_STORE:
            life = Life(Request(1, SECOND, 5))
            if present:
                life.charge(0)
            died = life.mortal.ban(1, NOW + 99 * SECOND, NOW, store)
            life.fill(1)
            assert life.worst() <= 5
            assert life.memory.table.verify() == []
            if not died:
                break
        assert not died
        assert life.memory.table.decide([life.request], NOW + 98 * SECOND).verdict == "refused"


def test_all_stripes_of_a_dead_owner_are_taken_over() -> None:
    memory = TableMemory(16)
    requests = [Request(key, SECOND, 9) for key in range(16)]
    assert Mortal(memory).decide(requests, NOW, 17)
    assert memory.table.decide(requests, NOW).verdict == "admitted"
    assert memory.table.decide(requests, NOW).verdict == "admitted"
    assert memory.table.counters().dead_owners == 16
    assert memory.table.counters().timeouts == 0
