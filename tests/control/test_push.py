"""What a node admitted without the store is told to it, all of it and once, on a real server."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator

import pytest

from ratelimitd.config.model import Config, Limit, Rate
from ratelimitd.control.push import Push
from ratelimitd.control.store_session import Session
from ratelimitd.errors import StoreFault
from ratelimitd.limits import window
from ratelimitd.limits.table import Request, StoreView, Table
from ratelimitd.segment import layout
from ratelimitd.segment.memory import Segment, boottime_us
from ratelimitd.segment.store import StoreMode, StoreWords
from tests.control.daemon import config
from tests.control.test_store_session import at, session_to
from tests.redis_servers import Redis

WINDOW_US = 3_600_000_000
PER_CLIENT = Limit(name="per-client", per=("client",), rates=(Rate(9, WINDOW_US),))


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with Redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(autouse=True)
def _empty(redis: Redis) -> None:
    with redis.client() as client:
        client.flushall()


class Node:
    """A table and the words of its store, which is away."""

    def __init__(self) -> None:
        self.config: Config = config(limits=(PER_CLIENT,))
        self.segment = Segment.create(10_000, layout.FIRST_WORKER_PAGE + 1)
        shape = self.segment.table
        self.table = Table(self.segment.memory, shape.offset, shape.stripes, shape.buckets_per_stripe)
        self.table.initialise()
        self.limit_id = self.segment.registry.limit_id("per-client", WINDOW_US)
        self.words = StoreWords(self.segment.memory)
        self.words.open_breaker(boottime_us())
        self.push = Push(self.table, self.segment.registry, self.words, "rl:", lambda: self.config)

    def admit(self, key: int, cost: int = 1) -> None:
        state = self.words.read()
        request = Request(key, window.slot_us(WINDOW_US), 9, cost, limit_id=self.limit_id)
        decision = self.table.decide_shared(
            (request,), boottime_us(), StoreView(state.mode, state.epoch, state.nodes_assumed)
        )
        assert decision.verdict == "admitted"

    def back(self, redis: Redis, *, everything: bool = False) -> None:
        self.words.close_breaker(StoreMode.BOTH)

        async def scene() -> None:
            async with session_to(at(redis.port)) as session:
                await self.push.run(session, everything)

        asyncio.run(scene())


def used(redis: Redis) -> dict[int, int]:
    """What the store has counted for each key."""
    with redis.client() as client:
        return {
            int(name[-17:-1], 16): sum(units for _, units in struct.iter_unpack("<BI", client.get(name)[20:]))
            for name in client.keys("rl:{per-client:3600s:*}")
        }


def test_all_keys_are_told_once(redis: Redis) -> None:
    node = Node()
    for key in range(1, 1_501):
        node.admit(key)
    node.admit(7, cost=3)
    node.back(redis)
    assert used(redis) == {key: 4 if key == 7 else 1 for key in range(1, 1_501)}
    node.back(redis)
    assert sum(used(redis).values()) == 1_503, "nothing is told twice"


def test_what_the_store_has_forgotten_is_told_whole(redis: Redis) -> None:
    node = Node()
    node.admit(1, cost=5)
    node.back(redis)
    with redis.client() as client:
        client.flushall()
    node.words.restart_epoch(boottime_us())
    node.back(redis, everything=True)
    assert used(redis) == {1: 5}


def test_a_limit_that_is_gone_is_nobodys(redis: Redis) -> None:
    node = Node()
    node.admit(1)
    node.config = config(limits=())
    node.back(redis)
    assert used(redis) == {}


def test_a_store_that_is_lost_meanwhile_is_a_fault() -> None:
    node = Node()
    node.admit(1)
    closed = Session(at(), lambda _: None)
    closed.close()
    with pytest.raises(StoreFault):
        asyncio.run(node.push.run(closed, False))
