"""The life of the store with a real server: there or not at the start, lost, had back; each is said once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ratelimitd.config.model import StoreOptions
from ratelimitd.control.heartbeat import Heartbeat
from ratelimitd.control.store import Node, Place, Store
from ratelimitd.control.store_session import Session
from ratelimitd.control.tasks import cancelled
from ratelimitd.fleet.topology_values import Credentials, Topology
from ratelimitd.proxy.orders import Store as StoreOrder
from ratelimitd.proxy.orders import StoreLost
from ratelimitd.segment import layout
from ratelimitd.segment.memory import Segment
from ratelimitd.segment.store import StoreMode, StoreWords
from tests.control.test_store_session import at
from tests.redis_servers import Redis

WITHIN_S = 10.0


class Daemon:
    """The store of a supervisor, and what the rest of the daemon hears of it."""

    def __init__(self, port: int) -> None:
        self.segment = Segment.create(1_000, layout.FIRST_WORKER_PAGE + 1)
        self.words = StoreWords(self.segment.memory)
        self.orders: list[StoreOrder] = []
        self.events: list[str] = []
        self.pushes: list[bool] = []
        self.doubts: list[bool] = []
        self.secrets: list[bytes] = []
        self.ended = False
        self.heartbeat = Heartbeat("rl:", None)
        place = Place(f"redis://user:secret@h:{port}", lambda: self._find(port), Credentials())
        self.store = Store(place, StoreOptions(deadline_ms=200), self.heartbeat, self._note)

    @staticmethod
    async def _find(port: int) -> Topology:
        return at(port)

    def _note(self, event: str, message: str, **_: Any) -> None:
        assert "secret@" not in message
        self.events.append(event)

    def join(self) -> None:
        node = Node(self.words, self.orders.append, self._push, self.secrets.append, self._beside, self._end)
        self.store.join(node)

    async def _push(self, _: Session, everything: bool) -> None:
        self.pushes.append(everything)

    async def _beside(self, _: Session, is_doubtful: bool) -> None:
        self.doubts.append(is_doubtful)

    def _end(self) -> None:
        self.ended = True

    @property
    def mode(self) -> StoreMode:
        return self.words.read().mode

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WITHIN_S):
            while not condition():
                await asyncio.sleep(0.01)

    @contextlib.asynccontextmanager
    async def running(self) -> Any:
        task = asyncio.ensure_future(self.store.run())
        try:
            yield
        finally:
            await cancelled((task,))
            await self.store.close()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    with Redis(tmp_path / "redis") as server:
        yield server


def test_there_at_the_start_lost_and_back(redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        daemon = Daemon(redis.port)
        await daemon.store.start()
        daemon.join()
        assert (daemon.mode, len(daemon.orders)) == (StoreMode.SHARED, 1)
        async with daemon.running():
            await daemon.until(lambda: bool(daemon.doubts))
            redis.kill()
            await daemon.until(lambda: daemon.mode is StoreMode.AWAY)
            assert not daemon.store.is_up
            assert daemon.store.report().state == "away"
            redis.start()
            await daemon.until(lambda: daemon.mode is StoreMode.SHARED)
            await daemon.until(lambda: len(daemon.doubts) > 2)
        assert daemon.pushes == [True], "it came back empty, so all is told"
        assert daemon.events == ["store_lost", "store_back", "limit_exception"]
        assert daemon.doubts.count(True) >= 2, "at the start and after the return the list is read whole"
        assert daemon.ended

    with caplog.at_level(logging.INFO):
        asyncio.run(scene())
    said = [record.message.partition(":")[0] for record in caplog.records]
    assert sum(line == "the store is away" for line in said) == 1
    assert sum(line.startswith("the store is back after") for line in said) == 1


def test_absent_at_the_start(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """It starts without it, and takes up the fleet's secret when it comes."""

    async def scene() -> None:
        daemon = Daemon(redis.port)
        with redis.client() as client:
            client.set("rl:{secret}", b"0123456789abcdef")
        redis.pause()
        monkeypatch.setattr("ratelimitd.control.store.START_S", 0.3)
        await daemon.store.start()
        daemon.join()
        assert (daemon.mode, daemon.events) == (StoreMode.AWAY, ["store_lost"])
        async with daemon.running():
            redis.resume()
            await daemon.until(lambda: daemon.mode is StoreMode.SHARED)
        assert (daemon.secrets, daemon.pushes) == ([b"0123456789abcdef"], [False])
        assert sorted(daemon.events) == ["limit_exception", "store_back", "store_lost"]

    asyncio.run(scene())


def test_a_worker_that_has_lost_it_is_believed_at_once(redis: Redis) -> None:
    async def scene() -> None:
        daemon = Daemon(redis.port)
        await daemon.store.start()
        daemon.join()
        async with daemon.running():
            await daemon.until(lambda: bool(daemon.doubts))
            daemon.store.take_report(StoreLost("it answered READONLY"))
            assert (daemon.mode, daemon.store.report().error) == (StoreMode.AWAY, "it answered READONLY")
            await daemon.until(lambda: daemon.mode is StoreMode.SHARED)
        assert daemon.events == ["store_lost", "store_back"]

    asyncio.run(scene())


def test_a_server_that_stands_still_is_away_and_back_on_the_same_link(redis: Redis) -> None:
    async def scene() -> None:
        daemon = Daemon(redis.port)
        await daemon.store.start()
        daemon.join()
        async with daemon.running():
            await daemon.until(lambda: bool(daemon.doubts))
            redis.pause()
            await daemon.until(lambda: daemon.mode is StoreMode.AWAY)
            assert "no answer to a PING" in daemon.store.report().error
            redis.resume()
            await daemon.until(lambda: daemon.mode is StoreMode.SHARED)

    asyncio.run(scene())
