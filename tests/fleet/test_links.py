"""The links of a worker over one server and over a cluster: routing, losses, and what is dialled again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from redis.crc import key_slot

from ratelimitd.config.model import StoreOptions
from ratelimitd.errors import StoreFault
from ratelimitd.fleet.links import Links
from ratelimitd.fleet.topology import finder
from ratelimitd.fleet.topology_values import Credentials, StoreServer, Topology
from tests.fleet.owners import Owner, packed, run_with
from tests.redis_servers import Cluster, Redis
from tests.servers import LOOPBACK, free_port
from tests.store_proxy import StoreProxy

NOTHING = Credentials()
KEYS = [b"rl:{per-client:10s:%016x}" % number for number in range(300)]


class Worker(Owner):
    """A worker and its links."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: dict[Any, Any] = {}
        self.links = Links(asyncio.get_running_loop(), self._answered, self.lost)

    def close(self) -> None:
        self.links.close()

    def _answered(self, token: Any, reply: Any) -> None:
        assert token not in self.answers
        self.answers[token] = reply
        self.tell()

    def is_ready(self) -> bool:
        return self.links.ready

    async def take(self, *ports: int, within_s: float = 5) -> None:
        topology = Topology(tuple(StoreServer(LOOPBACK, port) for port in ports))
        await self.links.take(topology, NOTHING, within_s)

    async def ask(self, token: Any = "ping", key: bytes = KEYS[0]) -> Any:
        self.links.call(key, packed("ECHO", b"hello"), token)
        self.links.flush()
        await self.until(lambda: token in self.answers)
        return self.answers.pop(token)


def run(test: Callable[[Worker], Awaitable[None]]) -> None:
    run_with(Worker, test)


def test_calls_go_nowhere_before_there_are_links() -> None:
    async def test(owner: Worker) -> None:
        owner.links.call(KEYS[0], packed("PING"), "ping")
        owner.links.flush()
        assert not owner.is_ready()
        assert owner.links.pending == 0

    run(test)


def test_the_same_place_again_dials_nobody(redis: Redis) -> None:
    async def test(owner: Worker) -> None:
        with StoreProxy(redis.port) as way:
            await asyncio.gather(*(owner.take(way.port) for _ in range(5)))
            await owner.take(way.port)
            assert owner.is_ready()
            assert way.dials == 1
            assert await owner.ask() == b"hello"

    run(test)


def test_a_lost_link_is_dialled_when_it_is_told_where(redis: Redis) -> None:
    async def test(owner: Worker) -> None:
        with StoreProxy(redis.port) as way:
            await owner.take(way.port)
            way.cut()
            await owner.until(lambda: bool(owner.faults))
            assert not owner.is_ready()
            await owner.take(way.port)
            assert owner.is_ready()
            assert await owner.ask() == b"hello"
            assert (way.dials, len(owner.faults)) == (2, 1)

    run(test)


def test_a_link_that_hangs_is_dialled_again(redis: Redis) -> None:
    """Into a black hole a connection looks open for a quarter of an hour."""

    async def test(owner: Worker) -> None:
        with StoreProxy(redis.port) as way:
            await owner.take(way.port)
            way.swallow_replies()
            owner.links.call(KEYS[0], packed("PING"), "never")
            owner.links.flush()
            with pytest.raises(StoreFault, match=r"did not answer within 0\.2 s"):
                await owner.take(way.port, within_s=0.2)
            assert not owner.is_ready()
            way.pass_on()
            await owner.take(way.port)
            assert await owner.ask() == b"hello"
            assert way.dials == 3
            assert owner.answers == {}
            assert owner.faults == []

    run(test)


def test_another_master_takes_its_place(redis: Redis, tmp_path: Path) -> None:
    async def test(owner: Worker) -> None:
        with Redis(tmp_path) as other, StoreProxy(redis.port) as way:
            await owner.take(way.port)
            await owner.take(other.port)
            assert owner.is_ready()
            owner.links.call(KEYS[0], packed("CONFIG", "GET", "port"), "port")
            owner.links.flush()
            await owner.until(lambda: "port" in owner.answers)
            assert owner.answers["port"] == [b"port", str(other.port).encode()]
            async with asyncio.timeout(10):
                while way.connections:
                    await asyncio.sleep(0.01)
            assert owner.faults == []

    run(test)


def test_without_one_server_there_is_none(redis: Redis) -> None:
    async def test(owner: Worker) -> None:
        missing = free_port()
        with pytest.raises(StoreFault, match=f"{missing} cannot be reached: connection refused"):
            await owner.take(redis.port, missing)
        assert not owner.is_ready()

    run(test)


@pytest.mark.parametrize("version", [pytest.param("redis-6.2", marks=pytest.mark.slow), "valkey-9"])
def test_a_cluster_gets_each_key_where_it_lies(version: str, tmp_path: Path) -> None:
    async def test(owner: Worker) -> None:
        finds = finder(cluster.url, StoreOptions(), "")
        await owner.links.take(await finds.find(), finds.credentials, 5)
        for key in KEYS:
            owner.links.call(key, packed("SET", key, "1", "PX", "60000"), key)
        owner.links.flush()
        await owner.until(lambda: len(owner.answers) == len(KEYS))
        assert set(owner.answers.values()) == {b"OK"}
        owner.answers.clear()

        slot = key_slot(KEYS[0])
        others = [node for node in cluster.masters if node is not cluster.owner_of_slot(slot)]
        cluster.move_slot(slot, others[0])
        owner.links.call(KEYS[0], packed("GET", KEYS[0]), "moved")
        owner.links.flush()
        await owner.until(lambda: "moved" in owner.answers)
        assert str(owner.answers["moved"]).startswith(f"MOVED {slot} ")
        assert owner.faults == []

        await owner.links.take(await finds.find(), finds.credentials, 5)
        owner.links.call(KEYS[0], packed("GET", KEYS[0]), "found")
        owner.links.flush()
        await owner.until(lambda: "found" in owner.answers)
        assert owner.answers["found"] == b"1"

        others[1].kill()
        await owner.until(lambda: bool(owner.faults))
        assert not owner.is_ready()

    with Cluster(tmp_path, version) as cluster:
        run(test)
