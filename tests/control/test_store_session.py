"""The supervisor's links to real servers: answers, errors with a cause, and silence that is bounded."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from ratelimitd.control.store_session import Refusal, Session
from ratelimitd.errors import StoreFault
from ratelimitd.fleet.script import Script, packed
from ratelimitd.fleet.signs import SECRET
from ratelimitd.fleet.topology_values import Credentials, StoreServer, Topology
from tests.redis_servers import Redis
from tests.servers import LOOPBACK, free_port


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with Redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


def at(*ports: int, slots: tuple[tuple[int, int, int], ...] = ()) -> Topology:
    return Topology(tuple(StoreServer(LOOPBACK, port) for port in ports), slots)


@contextlib.asynccontextmanager
async def session_to(where: Topology, faults: list[StoreFault] | None = None) -> AsyncIterator[Session]:
    told = [] if faults is None else faults
    session = await Session.open(where, Credentials(), 5.0, told.append)
    with contextlib.closing(session):
        yield session


def test_a_script_that_the_server_does_not_know_is_given_to_it(redis: Redis) -> None:
    async def scene() -> None:
        async with session_to(at(redis.port)) as session:
            for _ in range(2):
                answer = await session.run(SECRET, b"{secret}", b"0123456789abcdef", b"60000")
                assert answer == b"0123456789abcdef"

    with redis.client() as client:
        client.script_flush()
        asyncio.run(scene())
        assert client.info("commandstats")["cmdstat_eval"]["calls"] == 1


def test_an_error_is_a_refusal_with_its_first_word(redis: Redis) -> None:
    async def scene() -> None:
        async with session_to(at(redis.port)) as session:
            with pytest.raises(Refusal) as refused:
                await session.run(SECRET, b"list", b"x" * 16, b"60000")
            assert refused.value.kind in {"WRONGTYPE", "ERR"}
            assert await session.ping(5.0), "the link is as good as before"

    with redis.client() as client:
        client.rpush("list", "x")
    asyncio.run(scene())


def test_who_cannot_be_reached_is_named(redis: Redis) -> None:
    async def scene() -> None:
        port = free_port()
        with pytest.raises(StoreFault, match=f"{LOOPBACK}:{port}"):
            await Session.open(at(redis.port, port), Credentials(), 1.0, lambda _: None)

    asyncio.run(scene())


def test_a_server_that_stands_still_is_late_and_not_lost(tmp_path: Path) -> None:
    async def scene(redis: Redis) -> None:
        faults: list[StoreFault] = []
        async with session_to(at(redis.port), faults) as session:
            assert await session.ping(5.0)
            redis.pause()
            assert not await session.ping(0.05)
            redis.resume()
            assert await session.ping(5.0)
            assert faults == []

    with Redis(tmp_path / "redis") as redis:
        asyncio.run(scene(redis))


def test_a_loss_is_told_once_and_nothing_is_asked_after_it(tmp_path: Path) -> None:
    async def scene(redis: Redis) -> None:
        faults: list[StoreFault] = []
        async with session_to(at(redis.port), faults) as session:
            redis.kill()
            with pytest.raises(StoreFault):
                while True:
                    await session.run(SECRET, b"{secret}", b"0123456789abcdef", b"60000")
            with pytest.raises(StoreFault, match="connection was lost"):
                await session.ping(1.0)
            assert len(faults) == 1
            assert not session.is_open

    with Redis(tmp_path / "redis") as redis:
        asyncio.run(scene(redis))


def test_who_the_servers_are(redis: Redis, tmp_path: Path) -> None:
    async def identity(*ports: int) -> tuple[tuple[str, str], ...]:
        async with session_to(at(*ports)) as session:
            return await session.identity()

    first = asyncio.run(identity(redis.port))
    assert first == asyncio.run(identity(redis.port))
    assert all(len(part) == 40 for part in first[0])
    with Redis(tmp_path / "other") as other:
        assert asyncio.run(identity(redis.port, other.port))[1] not in first


def test_a_replica_is_no_store(redis: Redis, tmp_path: Path) -> None:
    async def scene(port: int) -> None:
        async with session_to(at(port)) as session:
            with pytest.raises(StoreFault, match="it is a replica now"):
                await session.identity()

    with Redis(tmp_path / "replica", options=["--replicaof", LOOPBACK, str(redis.port)]) as replica:
        asyncio.run(scene(replica.port))


def test_a_key_goes_to_who_holds_its_slot(redis: Redis, tmp_path: Path) -> None:
    where_am_i = Script(b"return redis.call('PING')", b"0" * 40)

    async def scene(other: Redis) -> None:
        slots = ((0, 8_000, 0), (8_001, 12_000, 1))
        async with session_to(at(redis.port, other.port, slots=slots)) as session:
            await session.ask(b"bar", packed((b"SET", b"bar", b"slot 5061")))
            await session.ask(b"{user1000}", packed((b"SET", b"k", b"slot 3443")))
            await session.ask(b"hello", packed((b"SET", b"hello", b"slot 866")))
            with pytest.raises(StoreFault, match="nobody for slot 12182"):
                await session.run(where_am_i, b"foo")

    with Redis(tmp_path / "other") as other:
        asyncio.run(scene(other))
        with redis.client() as client:
            assert client.exists("bar", "k", "hello") == 3
