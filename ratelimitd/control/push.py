"""After an outage the store is told what this node admitted without it, key by key, asked for or not.

Waiting for the next request of a key is not enough: a node at its share refuses from memory and never calls,
and others would be granted what it has spent. Each call charges and asks for nothing; there are 1,000 under
way at most, and the loop breathes in between.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Any, Final

import hiredis

from ratelimitd.control.store_session import Refusal
from ratelimitd.errors import StoreFault
from ratelimitd.fleet import names
from ratelimitd.fleet.script import Script
from ratelimitd.fleet.take import CLOSED_SLOTS, Take, Taken
from ratelimitd.limits import window
from ratelimitd.limits.policy import ban_name
from ratelimitd.limits.table import Request, StoreView
from ratelimitd.segment.memory import boottime_us

if TYPE_CHECKING:
    from collections.abc import Callable

    from ratelimitd.config.model import Config
    from ratelimitd.control.store_session import Session
    from ratelimitd.limits.table import Owed, Table
    from ratelimitd.segment.registry import Registry
    from ratelimitd.segment.store import StoreState, StoreWords

TAKE: Final = Script.load("take.lua")
BUCKETS_AT_ONCE: Final = 4_096
CALLS_AT_ONCE: Final = 1_000
ANSWER_S: Final = 2.0
LARGEST_NONCE: Final = (1 << 16) - 1  # as wide as the table keeps an incarnation


class Push:
    """Of the entries of `table`. Keys of limits that are not in `config` any more are nobody's business."""

    def __init__(
        self, table: Table, registry: Registry, words: StoreWords, prefix: str, config: Callable[[], Config]
    ) -> None:
        self._table = table
        self._registry = registry
        self._words = words
        self._prefix = prefix
        self._config = config

    async def run(self, session: Session, everything: bool) -> None:
        """Tell all; StoreFault when the store is lost meanwhile, and the next return tells it again."""
        limits = self._limits()
        epoch = self._words.read().epoch
        waiting: list[tuple[int, int]] = []
        for start in range(0, self._table.buckets, BUCKETS_AT_ONCE):
            waiting += self._table.unpushed(start, BUCKETS_AT_ONCE, boottime_us(), epoch, everything)
            while len(waiting) >= CALLS_AT_ONCE:
                await self._charge(session, waiting[:CALLS_AT_ONCE], limits)
                del waiting[:CALLS_AT_ONCE]
            await asyncio.sleep(0)
        await self._charge(session, waiting, limits)

    def _limits(self) -> dict[int, tuple[bytes, int]]:
        """What the keys of each window of a limit begin with, and its slots, by id."""
        config = self._config()
        counted = {limit.name for limit in config.limits} - {ban_name(limit.name) for limit in config.limits}
        return {
            limit_id: (names.key_prefix(self._prefix, name, window_us), window.slot_us(window_us))
            for (name, window_us), limit_id in self._registry.limits().items()
            if name in counted and window_us
        }

    async def _charge(
        self, session: Session, keys: list[tuple[int, int]], limits: dict[int, tuple[bytes, int]]
    ) -> None:
        """One call for each key; a second one for those that the store does not know any more."""
        known = [(key, limit_id) for key, limit_id in keys if limit_id in limits]
        for lost in (False, True):
            calls = {key: self._call(session, key, *limits[limit_id], lost) for key, limit_id in known}
            asked = [answer for answer, _ in calls.values()]
            if not asked:
                return
            _, missing = await asyncio.wait(asked, timeout=ANSWER_S)
            if missing:
                raise StoreFault(f"it did not take what was admitted without it within {ANSWER_S:g} s")
            again = []
            for key, limit_id in known:
                answer, command = calls[key]
                taken = await self._taken(session, answer, command)
                if taken.is_lost:
                    again.append((key, limit_id))
                else:
                    self._learn(key, limit_id, limits[limit_id][1], taken)
            known = again

    def _call(
        self, session: Session, key: int, prefix: bytes, slot_us: int, lost: bool
    ) -> tuple[asyncio.Future[Any], tuple[bytes, ...]]:
        now_us = boottime_us()
        state = self._words.read()
        view = StoreView(state.mode, state.epoch, state.nodes_assumed)
        owed = self._table.prepare(key, slot_us, now_us, view, lost)
        name = b"%b%016x}" % (prefix, key)
        command = (name, *_take(owed, slot_us, now_us, state, lost).arguments())
        return session.ask(name, TAKE.call(*command)), command

    async def _taken(
        self, session: Session, answer: asyncio.Future[Any], command: tuple[bytes, ...]
    ) -> Taken:
        reply = answer.result()
        if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT"):
            reply = await session.ask(command[0], TAKE.whole(*command))
        if isinstance(reply, hiredis.ReplyError):
            raise Refusal(reply)
        return Taken.read(reply)

    def _learn(self, key: int, limit_id: int, slot_us: int, taken: Taken) -> None:
        """The incarnation of the key: with another one the next call would charge all of it once more."""
        request = Request(key=key, cost=0, limit=0, slot_us=slot_us, limit_id=limit_id)
        epoch = self._words.read().epoch
        self._table.put_lease(request, boottime_us(), epoch, taken.incarnation & 0xFFFF, 0, 0, 0, 0)


def _take(owed: Owed, slot_us: int, now_us: int, state: StoreState, lost: bool) -> Take:
    recent = -1
    if lost:
        recent = 0  # the script charges all of it
    elif owed.stale and owed.own:
        recent = min(CLOSED_SLOTS, max(0, now_us - state.recharge_since_us) // slot_us + 1)
    return Take(
        slot_us=slot_us,
        limit=0,
        need=0,
        want=0,
        nodes=state.nodes_now,
        known=owed.known,
        nonce=1 + secrets.randbelow(LARGEST_NONCE),
        debt=owed.debt,
        recent=recent,
        returns=((owed.returned_slot, owed.returned),) if owed.returned else (),
        own=owed.own if recent >= 0 else (),
    )
