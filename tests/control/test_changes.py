"""Nodes of a fleet, each with a table of its own and one real store: what one changes, the others do too."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from ratelimitd.config.model import Ban, Config, Limit, Rate
from ratelimitd.control.changes import KEPT_US, MOST_WAITING, Changes
from ratelimitd.control.keyring import Keyring
from ratelimitd.control.keytexts import Texts
from ratelimitd.control.places import Places
from ratelimitd.control.store_session import Session
from ratelimitd.fleet.changes import ROOM
from ratelimitd.fleet.topology_values import Credentials, StoreServer, Topology
from ratelimitd.limits import window
from ratelimitd.limits.table import Request, Table
from ratelimitd.proxy.orders import Banned
from ratelimitd.segment import layout
from ratelimitd.segment.memory import Segment, boottime_us
from tests.control.daemon import config
from tests.redis_servers import Redis
from tests.servers import LOOPBACK

SECRET = b"0123456789abcdef"
WINDOW_US = 60_000_000
PER_CLIENT = Limit(
    name="per-client",
    per=("client",),
    rates=(Rate(5, WINDOW_US), Rate(50, 60 * WINDOW_US)),
    missing="skip",
    ban=Ban(after=3, within_ms=60_000, for_ms=600_000),
)
CLIENT = "203.0.113.9"
HOUR_US = 3_600_000_000


class Node:
    """One node, without a process of its own."""

    def __init__(self, session: Session, limits: tuple[Limit, ...] = (PER_CLIENT,), room: int = ROOM) -> None:
        self.config: Config = config(limits=limits)
        self.session = session
        self.segment = Segment.create(10_000, layout.FIRST_WORKER_PAGE + 1, SECRET)
        shape = self.segment.table
        self.table = Table(self.segment.memory, shape.offset, shape.stripes, shape.buckets_per_stripe)
        self.table.initialise()
        self.register(limits)
        self.events: list[tuple[str, str]] = []
        self.hurried = asyncio.Event()
        self.late_us = 0
        self.is_up = True
        places = Places(self.segment, self.table, lambda: self.config)
        self.changes = Changes(
            *(places, "rl:", self._note, self.hurried.set, lambda: self.is_up),
            clock_us=lambda: boottime_us() + self.late_us,
            room=room,
        )
        texts = Texts()
        self.keyring = Keyring(self.segment, self.table, texts, lambda: self.config, self.changes)

    def register(self, limits: tuple[Limit, ...]) -> None:
        registry = self.segment.registry
        for limit in limits:
            for rate in limit.rates:
                registry.limit_id(limit.name, rate.window_us)

    def _note(self, event: str, message: str, **_: Any) -> None:
        self.events.append((event, message))

    async def beat(self, *, is_doubtful: bool = False) -> None:
        await self.changes.beat(self.session, is_doubtful=is_doubtful)

    def do(self, verb: str, for_us: int = 0, client: str = CLIENT) -> None:
        (key,) = self.keyring.find([client], "per-client")
        getattr(self.keyring, verb)(key, *([for_us] if for_us else []))

    def first_banned_s(self, client: str) -> float:
        """In its first window, where a rule bans."""
        now_us = boottime_us()
        peeked = self.table.peek(self.hash(client), window.slot_us(WINDOW_US), now_us)
        return (peeked.banned_until_us - now_us) / 1e6 if peeked else 0

    def banned_s(self, client: str = CLIENT) -> float:
        (key,) = self.keyring.find([client], "per-client")
        return self.keyring.look(key).banned_s

    def used(self) -> int:
        (key,) = self.keyring.find([CLIENT], "per-client")
        return self.keyring.look(key).windows[0].used

    def hash(self, client: str = CLIENT) -> int:
        (key,) = self.keyring.find([client], "per-client")
        return self.keyring._places(key)[0].hash

    def count(self) -> None:
        """A request of the client."""
        limit_id = self.segment.registry.limit_id("per-client", WINDOW_US)
        request = Request(self.hash(), window.slot_us(WINDOW_US), 5, 1, 0, limit_id)
        assert self.table.decide((request,), boottime_us()).verdict == "admitted"

    def ban_by_rule(self, for_us: int, client: str = CLIENT) -> None:
        """What a worker does and tells."""
        limit_id, now_us = self.segment.registry.limit_id("per-client", WINDOW_US), boottime_us()
        self.table.ban(self.hash(client), limit_id, now_us + for_us, now_us)
        self.changes.banned(Banned(((self.hash(client), limit_id, now_us + for_us),)))

    def tell_bans(self, count: int) -> None:
        """So many, of other keys."""
        limit_id, until_us = self.segment.registry.limit_id("per-client", WINDOW_US), boottime_us() + HOUR_US
        self.changes.banned(Banned(tuple((key, limit_id, until_us) for key in range(1, count + 1))))


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with Redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@contextlib.asynccontextmanager
async def session_to(redis: Redis) -> AsyncIterator[Session]:
    where = Topology((StoreServer(LOOPBACK, redis.port),))
    session = await Session.open(where, Credentials(), 5.0, lambda _: None)
    with contextlib.closing(session):
        yield session


def run(redis: Redis, scene: Callable[[Session], Any]) -> None:
    async def play() -> None:
        async with session_to(redis) as session:
            await scene(session)

    with redis.client() as client:
        client.flushall()
    asyncio.run(play())


def test_a_ban_and_its_end_reach_the_other_node(redis: Redis) -> None:
    async def scene(session: Session) -> None:
        one, other = Node(session), Node(session)
        one.do("ban", HOUR_US)
        assert 3590 < one.banned_s() <= 3600, "at home at once"
        await one.beat()
        await other.beat()
        assert abs(one.banned_s() - other.banned_s()) < 1
        assert other.events == [("fleet_change", "heard from other nodes: 2 bans")]
        other.do("unban")
        await other.beat()
        await one.beat()
        assert one.banned_s() == other.banned_s() == 0
        assert (await one.changes.settle()).state == "told"

    run(redis, scene)


def test_a_reset_reaches_the_other_node_and_the_store(redis: Redis) -> None:
    async def scene(session: Session) -> None:
        one, other = Node(session), Node(session)
        with redis.client() as client:
            key = f"rl:{{per-client:60s:{one.hash():016x}}}"
            client.set(key, bytes([7, 0, 0, 0]) + bytes(16) + b"\x04\x05\0\0\0")
            other.count()
            one.do("reset")
            one.count()  # before the store has heard of it
            await one.beat()
            await other.beat()
            assert (one.used(), other.used()) == (0, 0)
            assert len(client.get(key)) == 20
            assert client.get(key)[2:4] == b"\x07\0", "its nodes know the key by the incarnation before"
        other.count()
        await other.beat(is_doubtful=True)
        assert other.used() == 1, "it is done once"

    run(redis, scene)


def test_a_late_reset_leaves_what_was_counted_since(redis: Redis) -> None:
    async def scene(session: Session) -> None:
        one, other = Node(session), Node(session)
        one.do("reset")
        await one.beat()
        other.count()
        other.late_us = 10_000_000
        one.ban_by_rule(HOUR_US)
        await one.beat()
        with redis.client() as client:  # ten seconds pass in the store as well
            raw = bytearray(client.get("rl:{changes}"))
            for at in range(24, len(raw), 41):
                over = memoryview(raw)[at + 16 : at + 24].cast("d")
                over[0] -= 10_000_000
            client.set("rl:{changes}", bytes(raw))
        await other.beat()
        assert other.used() == 1

    run(redis, scene)


def test_one_order_for_all(redis: Redis) -> None:
    """Two operators at once: what the list says last holds, here as there."""

    async def scene(session: Session) -> None:
        one, other = Node(session), Node(session)
        one.do("ban", HOUR_US)
        other.do("unban")
        await other.beat()
        await one.beat()
        await other.beat()
        assert (one.banned_s() > 0, other.banned_s() > 0) == (True, True)
        one.do("unban")
        other.do("ban", HOUR_US)
        await other.beat()
        await one.beat()
        await other.beat()
        assert (one.banned_s(), other.banned_s()) == (0, 0)

    run(redis, scene)


def test_a_rule_bans_everywhere_and_shortens_no_ban(redis: Redis) -> None:
    async def scene(session: Session) -> None:
        one, other = Node(session), Node(session)
        one.ban_by_rule(600_000_000)
        async with asyncio.timeout(5):
            await one.hurried.wait()
        await one.beat()
        await other.beat()
        assert 590 < other.banned_s() <= 600
        one.do("ban", HOUR_US, "203.0.113.7")
        other.ban_by_rule(600_000_000, "203.0.113.7")
        for node in (one, other, one, other):
            await node.beat()
        late = Node(session)
        await late.beat(is_doubtful=True)
        assert all(node.first_banned_s("203.0.113.7") > 3500 for node in (one, other, late))

    run(redis, scene)


def test_who_joins_late_gets_the_bans_that_run(redis: Redis) -> None:
    async def scene(session: Session) -> None:
        one = Node(session)
        one.do("ban", HOUR_US)
        one.do("ban", HOUR_US, "203.0.113.7")
        one.do("unban", client="203.0.113.7")
        await one.beat()
        late = Node(session)
        late.count()
        one.do("reset")
        await late.beat(is_doubtful=True)
        assert (late.banned_s() > 0, late.banned_s("203.0.113.7")) == (True, 0)

    run(redis, scene)


@pytest.mark.parametrize("loses", ["everything", "the last"])
def test_a_list_that_was_lost_is_told_again(redis: Redis, loses: str) -> None:
    async def scene(session: Session) -> None:
        one, other = Node(session), Node(session)
        with redis.client() as client:
            one.do("ban", HOUR_US, "203.0.113.7")
            await one.beat()
            await other.beat()
            before = client.get("rl:{changes}")
            one.do("ban", HOUR_US)
            await one.beat()
            client.delete("rl:{changes}")
            if loses == "the last":
                client.set("rl:{changes}", before)
        for node in (other, one, other):
            await node.beat(is_doubtful=loses == "everything")
        late = Node(session)
        await late.beat()
        for node in (one, other, late):
            assert node.banned_s() > 3500
            assert node.banned_s("203.0.113.7") > 3500

    run(redis, scene)


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("is_doubtful", [False, True])
def test_what_was_known_before_comes_before_what_waits(redis: Redis, first: int, is_doubtful: bool) -> None:
    """A ban that all know, lifted while the store was away, which then has forgotten both."""

    async def scene(session: Session) -> None:
        nodes = [Node(session), Node(session)]
        nodes[1].do("ban", HOUR_US)
        for node in (*reversed(nodes), *nodes):
            await node.beat()
        with redis.client() as client:
            client.delete("rl:{changes}")
        nodes[0].do("unban")
        for number in (first, 1 - first, first):
            await nodes[number].beat(is_doubtful=is_doubtful)
        late = Node(session)
        await late.beat(is_doubtful=True)
        assert [node.banned_s() for node in (*nodes, late)] == [0, 0, 0]

    run(redis, scene)


def test_while_the_store_is_away_it_waits_bounded_and_says_so(redis: Redis) -> None:
    async def scene(session: Session) -> None:
        one, other = Node(session), Node(session)
        one.is_up = False
        one.do("ban", HOUR_US)
        assert (await one.changes.settle()).state == "waiting"
        one.do("unban")
        one.ban_by_rule(HOUR_US, "203.0.113.7")
        one.tell_bans(MOST_WAITING - 5)
        one.do("ban", HOUR_US)
        spread = await one.changes.settle()
        assert (spread.state, "wait to be told" in spread.why) == ("refused", True)
        assert one.events[0][1].startswith("changes of keys that act on this node only: 1;")
        one.is_up = True
        await one.beat()
        assert (await one.changes.settle()).state == "told"
        await other.beat()
        assert (other.banned_s(), other.banned_s("203.0.113.7") > 0) == (0, True)

    run(redis, scene)


def test_who_ends_before_it_could_tell_says_so(redis: Redis) -> None:
    async def scene(session: Session) -> None:
        one = Node(session)
        one.do("ban", HOUR_US)
        one.changes.close()
        assert one.events == [
            (
                "changes_untold",
                "changes of keys that act on this node only: 2; this node ends before the store is back",
            )
        ]

    run(redis, scene)


def test_another_programs_key_is_said_once_and_the_store_goes_on(redis: Redis) -> None:
    async def scene(session: Session) -> None:
        one = Node(session)
        with redis.client() as client:
            client.set("rl:{changes}", "hello")
            await one.beat()
            await one.beat()
            assert [event for event, _ in one.events] == ["changes_untold"]
            one.do("ban", HOUR_US)
            await one.beat()
            spread = await one.changes.settle()
            assert (spread.state, "another program's" in spread.why) == ("refused", True)
            client.delete("rl:{changes}")
            one.do("ban", HOUR_US)
            await one.beat()
            assert (await one.changes.settle()).state == "told"

    run(redis, scene)


def test_no_room_is_said(redis: Redis) -> None:
    async def scene(session: Session) -> None:
        one = Node(session, room=2)
        one.do("ban", HOUR_US)
        await one.beat()
        assert (await one.changes.settle()).state == "told"
        one.do("ban", HOUR_US, "203.0.113.7")
        await one.beat()
        spread = await one.changes.settle()
        assert (spread.state, "full" in spread.why) == ("refused", True)

    run(redis, scene)


def test_a_limit_that_comes_later_has_the_bans_that_run(redis: Redis) -> None:
    async def scene(session: Session) -> None:
        one, other = Node(session), Node(session, ())
        one.do("ban", HOUR_US)
        await one.beat()
        await other.beat()
        other.register((PER_CLIENT,))
        other.config = config(limits=(PER_CLIENT,))
        assert other.banned_s() == 0
        await other.beat()
        assert other.banned_s() > 3500

    run(redis, scene)


def test_another_secret_takes_what_operators_did_along(redis: Redis) -> None:
    """A node that started without the store hashed with a secret of its own."""

    async def scene(session: Session) -> None:
        one, other = Node(session), Node(session)
        one.segment.adopt(b"another secret!!")
        one.do("ban", HOUR_US)
        one.segment.adopt(SECRET)
        one.changes.adopt()
        await one.beat()
        await other.beat()
        assert (one.banned_s() > 3500, other.banned_s() > 3500) == (True, True)

    run(redis, scene)


def test_who_was_away_too_long_says_so(redis: Redis) -> None:
    async def scene(session: Session) -> None:
        one = Node(session)
        await one.beat()
        one.late_us = KEPT_US + 1_000_000
        await one.beat()
        await one.beat()
        (event,) = one.events
        assert event[0] == "changes_missed"
        assert "did not hear the fleet for 1.0 h" in event[1]

    run(redis, scene)
