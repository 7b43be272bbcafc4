"""The script against a model of it, on every server that is promised.

Time is put into the script in place of its one reading of the clock, so that a history with steps of the
clock takes no time. What must agree after every call: the reply, what the stored value means, and how long it
is kept.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from ratelimitd.errors import StoreFault
from ratelimitd.fleet.changes import RESET, reset_arguments
from ratelimitd.fleet.take import AHEAD_SLOTS, CLOSED_SLOTS, TAKE, Take, Taken
from tests.fleet.model import Model
from tests.redis_servers import VERSIONS, Redis

CLOCK = b"local t = redis.call('TIME')"
GIVEN = b"local t = {struct.unpack('<dd', ARGV[#ARGV])}; ARGV[#ARGV] = nil"
SECOND = 1_000_000


@pytest.fixture(scope="module", params=VERSIONS)
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with Redis(tmp_path_factory.mktemp("redis"), request.param) as server, server.client() as client:
        yield client


class Script:
    """The script with its instant as an argument, and the keys whose time is over removed as the model's are:
    the server's own expiry runs on the real clock."""

    def __init__(self, client: Any) -> None:
        assert TAKE.text.count(CLOCK) == 1
        self.client = client
        self.model = Model()
        self._run = client.register_script(TAKE.text.replace(CLOCK, GIVEN))

    def take(self, name: bytes, take: Take, now_us: int) -> list[int]:
        instant = struct.pack("<dd", *divmod(now_us, SECOND))
        reply = self._run(keys=[name], args=[*take.arguments(), instant])
        assert isinstance(reply, list)
        return reply

    def both(self, name: bytes, take: Take, now_us: int) -> Taken:
        """The reply of the script, which is the model's."""
        known = self.model.keys.get(name)
        if known and known.expires_ms <= now_us // 1000:
            self.client.delete(name)
            del self.model.keys[name]
        reply = self.take(name, take, now_us)
        expected = self.model.take(name, take, now_us)
        assert reply == expected[: len(reply)]
        assert len(reply) == (9 if reply[0] == -1 else 10)
        self._compare_stored(name, now_us, written=reply[0] >= 0)
        return Taken.read(reply)

    def reset(self, name: bytes, nonce: int, now_us: int) -> None:
        """By the script and the model."""
        known = self.model.keys.get(name)
        if known and known.expires_ms <= now_us // 1000:
            self.client.delete(name)
            del self.model.keys[name]
        found = self.client.eval(RESET.text, 1, name, *reset_arguments(nonce))
        assert bool(found) == self.model.reset(name, nonce, now_us)
        self._compare_stored(name, now_us, written=bool(found))

    def _compare_stored(self, name: bytes, now_us: int, *, written: bool) -> None:
        key, raw = self.model.keys.get(name), self.client.get(name)
        assert (key is None) == (raw is None)
        if key is None:
            return
        left_ms = key.expires_ms - now_us // 1000
        assert not written or left_ms - 5_000 <= self.client.pttl(name) <= left_ms
        assert stored(raw) == (
            key.before << 16 | key.incarnation,
            float(key.seen_us),
            float(key.offset_us),
            key.counts,
        )


def stored(raw: bytes) -> tuple[int, float, float, dict[int, int]]:
    """Incarnation, clock, offset and counts by slot; the slot length is found from the counts alone."""
    incarnation, seen, offset = struct.unpack_from("<Idd", raw)
    pairs = list(struct.iter_unpack("<BI", raw[20:]))
    top = Stored.slot_of(seen) + AHEAD_SLOTS
    return incarnation, seen, offset, {top - below: units for below, units in pairs}


class Stored:
    """The slot length of the history that runs: a stored value does not name it."""

    slot_us = 1

    @classmethod
    def slot_of(cls, clock_us: float) -> int:
        return int(clock_us) // cls.slot_us


def test_the_slots_and_the_format_are_those_of_the_model() -> None:
    assert (CLOSED_SLOTS, AHEAD_SLOTS) == (31, 4)


@pytest.mark.parametrize(
    "seed", [*range(12), *(pytest.param(n, marks=pytest.mark.slow) for n in range(12, 400))]
)
def test_a_history_is_the_models(client: Any, seed: int) -> None:
    """Random limits, windows of 100 ms to 1 h, costs, debts, steps of the clock both ways, keys that are
    lost or reset, calls whose replies are lost, calls and returns that come twice."""
    chance = random.Random(seed)
    client.flushall()
    script = Script(client)
    window_us = chance.choice([100_000, SECOND, 10 * SECOND, 60 * SECOND, 3_600 * SECOND])
    slot_us = Stored.slot_us = -(-window_us // 31)
    limit = chance.choice([1, 3, 10, 100, 5_000, 2**31 - 1])
    now_us, known, last = 1_800_000_000 * SECOND, 0, None
    held: list[tuple[int, int]] = []
    for number in range(60):
        now_us = max(SECOND, now_us + step_us(chance, slot_us))
        if chance.random() < 0.03:
            client.flushall()
            script.model.keys.clear()
        if chance.random() < 0.05:
            script.reset(b"{k}", chance.choice([known or 1, 60_000 + number]), now_us)
        take = (
            last if last and chance.random() < 0.1 else some_take(chance, slot_us, limit, known, number, held)
        )
        last = take
        taken = script.both(b"{k}", take, now_us)
        if taken.is_lost:
            held.clear()
            known = 0 if chance.random() < 0.5 else known
        elif chance.random() < 0.9:  # else the reply is lost
            known = taken.incarnation
            if taken.lease:
                held.append((taken.lease_slot, taken.lease))


def step_us(chance: random.Random, slot_us: int) -> int:
    kind = chance.random()
    if kind < 0.03:
        return -chance.randrange(3_600 * SECOND)
    if kind < 0.06:
        return chance.randrange(3_600 * SECOND)
    return chance.choice([0, 1, slot_us // 3, slot_us, slot_us + 1, 7 * slot_us, 40 * slot_us])


def some_take(
    chance: random.Random, slot_us: int, limit: int, known: int, number: int, held: list[tuple[int, int]]
) -> Take:
    returns = (
        tuple((slot, chance.randrange(units + 1)) for slot, units in held) if chance.random() < 0.3 else ()
    )
    if returns and chance.random() < 0.8:
        held.clear()
    own = tuple((chance.randrange(0, 35), chance.randrange(1, limit + 1)) for _ in range(chance.randrange(4)))
    recent = chance.choice([-1, -1, -1, 0, 5, 40])
    return Take(
        slot_us=slot_us,
        limit=limit if chance.random() < 0.9 else max(1, limit // 2),
        need=chance.choice([0, 1, 1, 1, 5, limit]),
        want=chance.choice([0, 0, 1, 10, limit]),
        nodes=chance.randrange(1, 6),
        known=known,
        nonce=number + 1,
        debt=chance.choice([0, 0, 0, 1, 3]),
        least=chance.choice([1, 1, 2]),
        hold_us=chance.choice([0, 0, 25_000, slot_us * 2, slot_us * 9]),
        recent=recent,
        returns=returns,
        own=own if recent >= 0 else (),
    )


def test_a_unit_is_granted_once(client: Any) -> None:
    client.flushall()
    script, now_us = Script(client), 1_800_000_000 * SECOND
    Stored.slot_us = 322_581
    take = Take(slot_us=322_581, limit=3, need=2, want=0, nodes=1, known=0, nonce=7)
    first = script.both(b"{k}", take, now_us)
    assert (first.granted, first.used, first.incarnation) == (2, 2, 7)
    second = script.both(b"{k}", take, now_us)
    assert (second.granted, second.used) == (1, 3)
    assert 0 < second.denied_us <= 32 * 322_581


def test_a_key_that_was_lost_changes_nothing(client: Any) -> None:
    client.flushall()
    taken = Script(client).both(b"{k}", Take(1_000, 10, 1, 0, 1, known=5, nonce=6), SECOND)
    assert taken.is_lost
    assert client.keys() == []


def test_a_reset_gives_all_of_the_limit_and_nothing_comes_back(client: Any) -> None:
    """Who knew the key goes on without charging anew what it admitted before, and what is returned of leases
    from before takes nothing from the sum after."""
    client.flushall()
    script, now_us = Script(client), 1_800_000_000 * SECOND
    Stored.slot_us = 322_581
    first = script.both(b"{k}", Take(322_581, 10, need=6, want=4, nodes=1, known=0, nonce=7), now_us)
    assert (first.granted, first.lease) == (6, 4)
    script.reset(b"{k}", 9, now_us)
    take = Take(322_581, 10, need=8, want=0, nodes=1, known=7, nonce=8, returns=((first.granted_slot, 4),))
    second = script.both(b"{k}", take, now_us)
    assert (second.is_lost, second.granted, second.used, second.incarnation) == (False, 8, 8, 9)
    assert script.both(b"{k}", take, now_us).granted == 2, "the returns took nothing from the 8"
    own = Take(322_581, 20, need=0, want=0, nodes=1, known=7, nonce=8, recent=0, own=((0, 1), (5, 5)))
    assert script.both(b"{k}", own, now_us).used == 11, "only what is recent is charged"
    script.reset(b"{k}", 9, now_us)
    assert script.both(b"{k}", take, now_us).is_lost, "two resets ago is unknown, which charges too much"


def test_the_clock_of_a_key_never_goes_back(client: Any) -> None:
    client.flushall()
    script, now_us = Script(client), 1_800_000_000 * SECOND
    Stored.slot_us = 1_000
    full = Take(slot_us=1_000, limit=1, need=1, want=0, nodes=1, known=0, nonce=9)
    assert script.both(b"{k}", full, now_us).granted == 1
    assert script.both(b"{k}", full, now_us - 3_600 * SECOND).granted == 0
    # The clock goes on from where it stood: no longer than the window is the key full.
    assert script.both(b"{k}", full, now_us - 3_600 * SECOND + 33_000).granted == 1


def test_a_failed_call_writes_nothing(client: Any) -> None:
    """A call that is no call ends in an error before the script's last command, its only write."""
    client.flushall()
    with pytest.raises(Exception, match=r"data string too short|unfinished|bad argument"):
        client.eval(TAKE.text, 1, "k", b"short")
    assert client.keys() == []


@pytest.mark.parametrize("reply", [[1] * 9, [1] * 11, [-1] * 10, "OK", [1.5] * 10, None])
def test_what_is_no_answer_of_the_script(reply: Any) -> None:
    with pytest.raises(StoreFault):
        Taken.read(reply)


def test_a_key_of_one_slot_is_25_bytes(client: Any) -> None:
    client.flushall()
    client.register_script(TAKE.text)(keys=["one"], args=Take(322_581, 10, 1, 0, 1, 0, 3).arguments())
    assert len(client.get("one")) == 25
