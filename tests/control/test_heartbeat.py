"""Signs of life in a real store: who is there, what was lost, and which secret holds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ratelimitd.control.heartbeat import HOUR_US, Heartbeat, NodesSeen, nonce
from ratelimitd.control.store_session import Session
from ratelimitd.segment.memory import boottime_us
from tests.control.test_store_session import at, session_to
from tests.redis_servers import Redis

SECRET = b"0123456789abcdef"


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with Redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


def run(redis: Redis, scene: Callable[[Session], Any]) -> None:
    async def play() -> None:
        async with session_to(at(redis.port)) as session:
            await scene(session)

    with redis.client() as client:
        client.flushall()
    asyncio.run(play())


def test_nodes_are_counted_and_leave(redis: Redis) -> None:
    async def scene(session: Session) -> None:
        one, other = Heartbeat("rl:", None), Heartbeat("rl:", None)
        assert (await one.beat(session, 1, 0)).fleet.alive == 1
        assert (await other.beat(session, 0, 0)).fleet.alive == 2
        both = await one.beat(session, 1, 0)
        assert (both.fleet.alive, both.fleet.back) == (2, 1), "who owes is not back"
        await other.leave(session)
        assert (await one.beat(session, 1, 0)).fleet.alive == 1
        assert (await Heartbeat("other:", None).beat(session, 1, 0)).fleet.alive == 1

    run(redis, scene)


def test_the_first_secret_holds_for_all(redis: Redis) -> None:
    async def scene(session: Session) -> None:
        one, other, fixed = Heartbeat("rl:", None), Heartbeat("rl:", None), Heartbeat("rl:", SECRET)
        offered = one.secret
        assert other.secret != offered
        assert (await one.beat(session, 1, 0)).secret == (await other.beat(session, 1, 0)).secret == offered
        assert (await fixed.beat(session, 1, 0)).secret == SECRET

    run(redis, scene)


def test_a_loss_is_noticed_once(redis: Redis) -> None:
    async def scene(session: Session) -> None:
        node = Heartbeat("rl:", None)
        assert not (await node.beat(session, 1, 0)).is_list_lost, "who is new has lost nothing"
        with redis.client() as client:
            client.flushall()
        assert (await node.beat(session, 1, 0)).is_list_lost
        found = await node.beat(session, 1, 0)
        assert (found.is_list_lost, found.is_other_server) == (False, False)

    run(redis, scene)


def test_another_server_is_noticed(redis: Redis, tmp_path_factory: pytest.TempPathFactory) -> None:
    async def scene(session: Session) -> None:
        node = Heartbeat("rl:", None)
        await node.beat(session, 1, 0)
        with Redis(tmp_path_factory.mktemp("other")) as server:
            async with session_to(at(server.port)) as other:
                assert (await node.beat(other, 1, 0)).is_other_server

    run(redis, scene)


def test_a_clock_that_jumps_ahead_is_noticed(redis: Redis) -> None:
    async def scene(session: Session) -> None:
        behind_us = 0
        node = Heartbeat("rl:", None, lambda: boottime_us() - behind_us)
        assert [(await node.beat(session, 1, 0)).step_us for _ in range(2)] == [0, 0]
        behind_us = 2_000_000  # as if the store's had been set ahead by so much
        assert 1_500_000 < (await node.beat(session, 1, 0)).step_us <= 2_000_000
        behind_us = 0
        assert (await node.beat(session, 1, 0)).step_us == 0, "one that is set back ends no window early"

    run(redis, scene)


def test_the_most_nodes_of_an_hour() -> None:
    seen = NodesSeen(2)
    assert seen.most(0) == 2
    seen.note(5, 0)
    seen.note(3, HOUR_US // 2)
    assert seen.most(HOUR_US) == 5
    assert seen.most(HOUR_US + 1) == 3
    seen.note(1, 2 * HOUR_US)
    assert seen.most(4 * HOUR_US) == 2, "never fewer than the operator says"


def test_an_incarnation_is_never_none() -> None:
    assert all(0 < nonce() < 1 << 32 for _ in range(1_000))
