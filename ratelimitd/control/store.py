"""The life of the store in the supervisor: found, held, lost, and had back.

A PING each 100 ms finds out that it is away; then all workers know, at once, by the words in the segment. It
is back after two PINGs in time and a sign of life: workers connect, and it returns without a burst
(`store_return`). One line and one event tell each change. Dials are one at a time, 100 to 500 ms apart, so
that limits are shared again within a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import random
import time
from typing import TYPE_CHECKING, Final, Literal

from ratelimitd.config.addresses import without_login
from ratelimitd.control.heartbeat import NodesSeen
from ratelimitd.control.store_report import Exceptions, StoreReport
from ratelimitd.control.store_return import Return
from ratelimitd.control.store_session import Session
from ratelimitd.control.tasks import cancelled
from ratelimitd.errors import StoreFault
from ratelimitd.proxy.orders import Store as StoreOrder
from ratelimitd.segment.memory import boottime_us
from ratelimitd.segment.store import StoreMode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from ratelimitd.config.model import StoreOptions
    from ratelimitd.control.heartbeat import Beat, Heartbeat
    from ratelimitd.control.journal import Note
    from ratelimitd.fleet.topology_values import Credentials, Topology
    from ratelimitd.proxy.orders import StoreLost
    from ratelimitd.segment.store import StoreWords

logger = logging.getLogger(__name__)

START_S: Final = 2.0
PING_S: Final = 0.1
BEAT_S: Final = 1.0
BEAT_RETURNING_S: Final = 0.2
PROVE_S: Final = 0.05  # between the two PINGs of a return: workers connect meanwhile
DIAL_S: Final = 0.5
HANG_S: Final = 1.0
LEAST_DELAY_S: Final = 0.1
MOST_DELAY_S: Final = 0.5
TELL_US: Final = 10_000_000
CALM_US: Final = 5_000_000  # held for so long, it is dialled at once when it is lost
# A change of server is seen up to a second later, and what was written a second before it may be missing.
RECENT_US: Final = 2_000_000

_WORDS: Final[dict[StoreMode, Literal["shared", "away", "returning"]]] = {
    StoreMode.SHARED: "shared",
    StoreMode.AWAY: "away",
    StoreMode.BOTH: "returning",
}


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the store is, by what the operator wrote. `find` asks for the servers each time anew."""

    url: str
    find: Callable[[], Awaitable[Topology]]
    credentials: Credentials


@dataclasses.dataclass(frozen=True)
class Node:
    """What the store acts on, once there is a segment: its words, workers, what is owed, another secret, and
    what else goes along with each sign of life, which hears whether the store may have lost what it held."""

    words: StoreWords
    send: Callable[[StoreOrder], None]
    push: Callable[[Session, bool], Coroutine[object, object, None]]
    adopt: Callable[[bytes], None]
    beside: Callable[[Session, bool], Awaitable[None]]
    ended: Callable[[], None]


class Store:
    """Until `start` it is unknown, and until `join` there is nobody to tell."""

    def __init__(self, place: Place, options: StoreOptions, heartbeat: Heartbeat, note: Note) -> None:
        self._place = place
        self._url = without_login(place.url)
        self._deadline_s = options.deadline_ms / 1000
        self._heartbeat = heartbeat
        self._note = note
        self._exceptions = Exceptions(note)
        self._seen = NodesSeen(options.nodes)
        self._nodes = max(1, options.nodes)  # who has never met the store waits for as many to come back
        self._session: Session | None = None
        self._node: Node | None = None
        self._return: Return
        self._is_up = False
        self._gone = asyncio.Event()
        self._hurry = asyncio.Event()
        self._untold = False  # a worker could not connect while the store was away
        self._why = self._told_why = ""
        self._since_s = time.time()
        self._since_us = self._told_us = boottime_us()
        self._delay_s = LEAST_DELAY_S

    # --- the start ----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Try for up to 2 s, before there is a segment: the secret must be known then."""
        try:
            async with asyncio.timeout(START_S):
                await self._start()
        except TimeoutError:
            self._drop()
            self._why = self._why or f"it did not answer within {START_S:g} s"
            message = f"the store {self._url} cannot be used: {self._why}"
            logger.warning(
                "%s; starting without it, and trying on: each limit does what it says of that", message
            )
            self._note("store_lost", message)

    async def _start(self) -> None:
        while not self._is_up:
            try:
                session = await self._reach()
                await self._prove(session)
                beat = await self._heartbeat.beat(session, 0, 0)
            except StoreFault as fault:
                self._why = str(fault)
                self._drop()
                await asyncio.sleep(LEAST_DELAY_S)
            else:
                self._heartbeat.secret = beat.secret
                self._is_up = True
                self._count(beat)
                self._since_us = boottime_us()

    @property
    def secret(self) -> bytes:
        """What keys of limits are hashed with."""
        return self._heartbeat.secret

    def join(self, node: Node) -> None:
        """There is a segment now, and there are workers."""
        self._node = node
        self._return = Return(node.words, node.push, self.hurry, self._fall, self._exceptions)
        node.words.set_nodes(self._seen.most(boottime_us()), self._nodes)
        if self._is_up and self._session is not None:
            self._return.start()
            node.send(StoreOrder(self._session.where, self._place.credentials))
        else:
            node.words.open_breaker(boottime_us())

    async def run(self) -> None:
        """Hold it, and have it back when it was lost, for ever."""
        assert self._node is not None
        try:
            while True:
                if self._is_up:
                    await self._hold(self._node)
                await self._come_back(self._node)
        finally:
            await self._return.close()

    async def close(self) -> None:
        """Leave the fleet, if that takes no time."""
        if self._session is not None and self._is_up:
            with contextlib.suppress(StoreFault, TimeoutError):
                async with asyncio.timeout(self._deadline_s):
                    await self._heartbeat.leave(self._session)
        self._drop()
        if self._node is not None:
            self._node.ended()

    # --- held ---------------------------------------------------------------------------------------------

    async def _hold(self, node: Node) -> None:
        """Until it is lost."""
        works = [asyncio.ensure_future(work) for work in (self._ping(node), self._beat(node))]
        try:
            await self._gone.wait()
        finally:
            await cancelled(works)

    async def _ping(self, node: Node) -> None:
        loop = asyncio.get_running_loop()
        while self._is_up and self._session is not None:
            began_s = loop.time()
            try:
                if not await self._session.ping(self._deadline_s):
                    self._fall(f"no answer to a PING within {self._deadline_s * 1000:g} ms", hangs=True)
            except StoreFault as fault:
                self._fall(str(fault))
            if node.words.read().mode is StoreMode.AWAY:
                self._fall("a worker has lost it")
            await asyncio.sleep(max(0.0, began_s + PING_S - loop.time()))

    async def _beat(self, node: Node) -> None:
        is_doubtful = True
        while self._is_up and self._session is not None:
            session = self._session
            try:
                held_ms = self._return.held_ms(boottime_us())
                beat = await self._heartbeat.beat(session, held_ms, self._return.back_from_us)
                self._take(node, beat)
                await node.beside(session, is_doubtful or beat.is_list_lost or beat.is_other_server)
                is_doubtful = False
            except StoreFault as fault:
                self._fall(str(fault))
                return
            if self._untold:
                self._untold = False
                node.send(StoreOrder(session.where, self._place.credentials))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BEAT_RETURNING_S if self._return.is_under_way else BEAT_S):
                    await self._hurry.wait()
            self._hurry.clear()

    @property
    def is_up(self) -> bool:
        return self._is_up

    def hurry(self) -> None:
        """There is something to tell the fleet: beat now."""
        self._hurry.set()

    def _take(self, node: Node, beat: Beat) -> None:
        """What a sign of life has found out."""
        self._take_secret(node, beat.secret)
        before = self._nodes
        self._count(beat)
        if beat.step_us:
            self._exceptions.count(
                "clock_step", f"the clock of the store jumped ahead by {beat.step_us / 1e6:.3f} s"
            )
        if not (beat.is_list_lost or beat.is_other_server):
            self._return.take(beat.fleet)
        elif node.words.read().mode is not StoreMode.AWAY and self._session is not None:
            node.words.restart_epoch(boottime_us() - RECENT_US)
            self._tell_loss(beat)
            self._return.begin(self._session, beat.fleet, before, everything=True)

    def _count(self, beat: Beat) -> None:
        now_us = boottime_us()
        self._nodes = max(1, beat.fleet.alive)
        self._seen.note(self._nodes, now_us)
        if self._node is not None:
            self._node.words.set_nodes(self._seen.most(now_us), self._nodes)

    def _take_secret(self, node: Node, secret: bytes) -> None:
        if secret != self._heartbeat.secret:
            self._heartbeat.secret = secret
            node.adopt(secret)
            self._exceptions.count(
                "secret",
                "the fleet hashes keys with another secret than this node did: all is counted anew here",
            )

    def _tell_loss(self, beat: Beat) -> None:
        what = (
            "has lost what it held"
            if beat.is_list_lost
            else "is another server, and may lack the last second"
        )
        self._exceptions.count(
            "data_lost", f"the store {what}: this node's own admissions are charged to it anew"
        )

    # --- lost ---------------------------------------------------------------------------------------------

    def take_report(self, report: StoreLost) -> None:
        """A worker has lost it, or cannot connect: it tries once more when the store is back."""
        self._untold = True
        if self._is_up:
            self._fall(report.why)

    def _fall(self, why: str, *, hangs: bool = False) -> None:
        """Lost, for all. It is dialled anew, unless it was only late."""
        if not hangs:
            self._drop()
        if not self._is_up or self._node is None:
            return
        self._is_up = False
        now_us = boottime_us()
        self._node.words.open_breaker(now_us)
        self._return.lost()
        self._delay_s = 0.0 if now_us - self._since_us > CALM_US else LEAST_DELAY_S
        self._why, self._since_s = why, time.time()
        self._since_us, self._told_us, self._told_why = now_us, now_us, why
        message = f"the store is away: {why}; each limit does what its on_store_failure says"
        self._exceptions.count("store_lost", message, "store_lost")
        self._gone.set()

    async def _come_back(self, node: Node) -> None:
        """Try until it answers in time."""
        delay_s = self._delay_s
        while not self._is_up:
            await asyncio.sleep(delay_s * random.uniform(0.7, 1.0))
            delay_s = min(MOST_DELAY_S, max(LEAST_DELAY_S, 2 * delay_s))
            try:
                session = await self._reach()
                await self._prove(session)
                beat = await self._heartbeat.beat(session, 0, 0, boottime_us() - self._since_us)
            except StoreFault as fault:
                self._drop()
                self._tell_still(str(fault))
            else:
                self._be_back(node, session, beat)

    def _tell_still(self, why: str) -> None:
        """That it is away for another reason now: `status` has it at once, the log seldom, as it may change
        each time."""
        now_us = boottime_us()
        self._why = why
        if why != self._told_why and now_us - self._told_us > TELL_US:
            self._told_us, self._told_why = now_us, why
            logger.warning("the store is still away: %s", why)

    def _be_back(self, node: Node, session: Session, beat: Beat) -> None:
        words, now_us, wanted = node.words, boottime_us(), self._nodes
        if beat.is_other_server:
            words.set_recharge_since(max(0, words.read().recharge_since_us - RECENT_US // 2))
        away_ms = (now_us - self._since_us) // 1000
        self._gone.clear()
        self._is_up = True
        self._since_us, self._since_s = now_us, time.time()
        self._take_secret(node, beat.secret)
        self._count(beat)
        message = f"the store is back after {away_ms / 1000:.1f} s"
        logger.info("%s; nodes there: %d", message, self._nodes)
        self._note("store_back", message, nodes=self._nodes, away_ms=away_ms)
        if beat.fleet.others_held_ms > away_ms:
            self._exceptions.count(
                "cut_off", "this node was cut off from the store, and others went on to share it"
            )
        if beat.is_list_lost:
            self._tell_loss(beat)
        everything = beat.is_list_lost or beat.is_other_server
        self._return.begin(session, beat.fleet, wanted, everything=everything)

    # --- connections --------------------------------------------------------------------------------------

    async def _reach(self) -> Session:
        """Links to where the servers are now; those that there are, when nothing has changed."""
        try:
            async with asyncio.timeout(HANG_S):
                where = await self._place.find()
        except TimeoutError:
            raise StoreFault(f"nobody says within {HANG_S:g} s where it is") from None
        session = self._session
        if session is None or not session.is_open or session.where != where:
            self._drop()
            session = await Session.open(where, self._place.credentials, DIAL_S, self._broken)
            self._session = session
        return session

    async def _prove(self, session: Session) -> None:
        """Two PINGs in a row in time, and workers connect between them; StoreFault when it hangs."""
        good = 0
        while good < 2:
            if await session.ping(self._deadline_s):
                good += 1
            elif await session.ping(HANG_S):
                good = 0
            else:
                raise StoreFault(f"no answer to a PING within {HANG_S:g} s")
            if good == 1 and self._node is not None:
                self._node.send(StoreOrder(session.where, self._place.credentials))
                await asyncio.sleep(PROVE_S)

    def _broken(self, fault: StoreFault) -> None:
        self._fall(str(fault))

    def _drop(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def report(self) -> StoreReport:
        """How it does, for operators."""
        assert self._node is not None
        state = self._node.words.read()
        return StoreReport(
            _WORDS[state.mode],
            *(self._url, self._since_s, self._why, state.nodes_now, state.nodes_assumed),
            dict(self._exceptions.counts),
        )
