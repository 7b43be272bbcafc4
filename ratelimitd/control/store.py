"""The life of the store in the supervisor: found, held, lost, and back without a burst.

A PING each 100 ms finds out that it is away; then all workers know, at once, by the words in the segment. It is
back after two PINGs in time and a sign of life: workers connect, what the node admitted meanwhile is pushed, and
until as many nodes are back as there were, 10 s at most, the store and the node's share must agree. One line and
one event tell each change. Dials are one at a time, 100 to 500 ms apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from typing import TYPE_CHECKING, Final

from ratelimitd.control.heartbeat import NodesSeen
from ratelimitd.control.store_report import REASONS, StoreReport, shown_url
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
RETURN_US: Final = 10_000_000
CALM_US: Final = 5_000_000  # held for so long, the store is dialled at once when it is lost
_RECENT_US: Final = 2_000_000  # a change of server is seen a second later, and the second before may be missing


class Node:
    """What the life of the store acts on, once there is a segment: words, workers, the push of what is owed, and
    what becomes of another secret."""

    def __init__(
        self,
        words: StoreWords,
        send: Callable[[StoreOrder], None],
        push: Callable[[Session, bool], Coroutine[object, object, None]],
        adopt: Callable[[bytes], None],
        each_beat: Callable[[Session], Awaitable[None]],
    ) -> None:
        self.words: Final = words
        self.send: Final = send
        self.push: Final = push
        self.adopt: Final = adopt
        self.each_beat: Final = each_beat


class Store:
    """`find` says where the servers are. Until `join` there is no segment and nobody to tell."""

    def __init__(
        self,
        url: str,
        options: StoreOptions,
        credentials: Credentials,
        find: Callable[[], Awaitable[Topology]],
        heartbeat: Heartbeat,
        note: Note,
    ) -> None:
        self._url = shown_url(url)
        self._deadline_s = options.deadline_ms / 1000
        self._credentials = credentials
        self._find = find
        self._heartbeat = heartbeat
        self._note = note
        self._seen = NodesSeen(options.nodes)
        self._session: Session | None = None
        self._node: Node
        self._nodes = 1
        self._is_up = False
        self._gone = asyncio.Event()
        self._why = ""
        self._since_s = time.time()
        self._since_us = boottime_us()  # of the state
        self._told_us = 0
        self._hurry = asyncio.Event()
        self._back_from_us = 0  # the store's clock when this node was back
        self._wanted = 1  # nodes that must be back
        self._held_since_us = 0
        self._pushing: asyncio.Task[None] | None = None
        self.exceptions: Final = dict.fromkeys(REASONS, 0)

    # --- the start -------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Try for up to 2 s, before there is a segment: the secret must be known then."""
        try:
            async with asyncio.timeout(START_S):
                while not await self._tried():
                    await asyncio.sleep(LEAST_DELAY_S)
        except TimeoutError:
            self._why = self._why or f"it did not answer within {START_S:g} s"
        if not self._is_up:
            self._drop()
            logger.warning(
                "the store %s cannot be used: %s; serving without it, each limit as its on_store_failure says, "
                "and trying on",
                *(self._url, self._why),
            )
            self._note("store_lost", f"the store cannot be used at the start: {self._why}", url=self._url)

    async def _tried(self) -> bool:
        try:
            session = await self._reach()
            await self._prove(session)
            beat = await self._heartbeat.beat(session, 0, 0)
        except StoreFault as fault:
            self._why = str(fault)
            self._drop()
            return False
        self._heartbeat.secret = beat.secret
        self._is_up = True
        self._count(beat)
        self._held_since_us = self._since_us = boottime_us()
        return True

    @property
    def secret(self) -> bytes:
        """What keys of limits are hashed with."""
        return self._heartbeat.secret

    def join(self, node: Node) -> None:
        """There is a segment now, and there are workers."""
        self._node = node
        node.words.set_nodes(self._seen.most(boottime_us()), self._nodes)
        if self._is_up and self._session is not None:
            node.send(StoreOrder(self._session.where, self._credentials))
        else:
            node.words.open_breaker(boottime_us())

    async def run(self) -> None:
        """Hold it, and have it back when it was lost, for ever."""
        try:
            while True:
                if self._is_up:
                    await self._hold()
                await self._come_back()
        finally:
            await cancelled(task for task in (self._pushing,) if task is not None)

    async def close(self) -> None:
        """Leave the fleet, if that takes no time."""
        if self._session is not None and self._is_up:
            with contextlib.suppress(StoreFault, TimeoutError):
                async with asyncio.timeout(self._deadline_s):
                    await self._heartbeat.leave(self._session)
        self._drop()

    # --- held ------------------------------------------------------------------------------------------------

    async def _hold(self) -> None:
        """Until it is lost."""
        works = [asyncio.ensure_future(work) for work in (self._ping(), self._beat())]
        await self._gone.wait()
        await cancelled(works)

    async def _ping(self) -> None:
        loop = asyncio.get_running_loop()
        while self._is_up and self._session is not None:
            began_s = loop.time()
            try:
                if not await self._session.ping(self._deadline_s):
                    self._fall(f"it did not answer a PING within {self._deadline_s * 1000:g} ms", keeps=True)
            except StoreFault as fault:
                self._fall(str(fault))
            if self._node.words.read().mode is StoreMode.AWAY:
                self._fall("a worker has lost it")
            await asyncio.sleep(max(0.0, began_s + PING_S - loop.time()))

    async def _beat(self) -> None:
        while self._is_up and self._session is not None:
            try:
                beat = await self._heartbeat.beat(self._session, self._held_ms(), self._back_from_us)
                self._take(beat)
                await self._node.each_beat(self._session)
            except StoreFault as fault:
                self._fall(str(fault))
                return
            returning = self._node.words.read().mode is StoreMode.BOTH
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BEAT_RETURNING_S if returning else BEAT_S):
                    await self._hurry.wait()
            self._hurry.clear()

    def hurry(self) -> None:
        """There is something to tell the fleet: beat now."""
        self._hurry.set()

    def _take(self, beat: Beat) -> None:
        """What a sign of life has found out."""
        self._take_secret(beat.secret)
        self._count(beat)
        if beat.step_us:
            self._except(
                "clock_step",
                f"the store's clock jumped ahead by {beat.step_us / 1e6:.3f} s: windows of that moment ended early",
            )
        if beat.is_list_lost or beat.is_other_server:
            self._recharge(beat)
        elif self._node.words.read().mode is StoreMode.BOTH:
            self._settle(beat)

    def _count(self, beat: Beat) -> None:
        now_us = boottime_us()
        self._nodes = max(1, beat.fleet.alive)
        self._seen.note(self._nodes, now_us)
        if hasattr(self, "_node"):
            self._node.words.set_nodes(self._seen.most(now_us), self._nodes)

    def _take_secret(self, secret: bytes) -> None:
        if secret != self._heartbeat.secret:
            self._heartbeat.secret = secret
            self._node.adopt(secret)
            self._except(
                "secret",
                "the fleet hashes keys with another secret than this node did: taken over; what this node "
                "counted before is counted anew",
            )

    def _recharge(self, beat: Beat) -> None:
        """The store lost what it held, or the last of it, and nobody noticed an outage."""
        words, now_us = self._node.words, boottime_us()
        if words.read().mode is StoreMode.AWAY:
            return
        self._wanted = max(self._nodes, words.read().nodes_now)
        words.restart_epoch(now_us - _RECENT_US)
        words.close_breaker(StoreMode.BOTH)
        self._except("data_lost", _lost_text(beat) + ": what this node admitted is charged to it again")
        self._begin_return(beat)

    # --- lost ------------------------------------------------------------------------------------------------

    def take_report(self, report: StoreLost) -> None:
        """A worker has lost it: its PING may come through all the same."""
        self._fall(report.why)

    def _fall(self, why: str, *, keeps: bool = False) -> None:
        """Lost, now and for all. It is dialled anew, unless it was only late."""
        if not keeps:
            self._drop()
        if not self._is_up:
            return
        self._is_up = False
        now_us = boottime_us()
        self._node.words.open_breaker(now_us)
        self._wanted = max(self._wanted, self._nodes) if self._is_returning() else self._nodes
        self._held_since_us = 0
        self._why, self._since_s = why, time.time()
        calm = now_us - self._since_us > CALM_US
        self._since_us = now_us
        self._delay_s = 0.0 if calm else LEAST_DELAY_S
        self._except(
            "store_lost", f"the store is away: {why}; each limit does what its on_store_failure says", "store_lost"
        )
        self._gone.set()

    _delay_s = 0.0

    def _is_returning(self) -> bool:
        return self._pushing is not None and not self._pushing.done()

    async def _come_back(self) -> None:
        """Dial until it answers in time."""
        delay_s = self._delay_s
        while True:
            await asyncio.sleep(delay_s * random.uniform(0.7, 1.0))
            delay_s = min(MOST_DELAY_S, max(LEAST_DELAY_S, 2 * delay_s))
            try:
                session = await self._reach()
                await self._prove(session)
                beat = await self._heartbeat.beat(session, 0, 0)
            except StoreFault as fault:
                self._drop()
                self._tell_why(str(fault))
            else:
                self._return(beat)
                return

    def _tell_why(self, why: str) -> None:
        """That it is still away is told when the reason is another one, and not each time."""
        now_us = boottime_us()
        if why != self._why and now_us - self._told_us > RETURN_US:
            self._told_us = now_us
            logger.warning("the store is still away: %s", why)
        self._why = why

    def _return(self, beat: Beat) -> None:
        """It is back: it and the share of this node must agree until all is told, and all are there."""
        words, now_us = self._node.words, boottime_us()
        if beat.is_other_server:
            words.set_recharge_since(max(0, words.read().recharge_since_us - _RECENT_US // 2))
        away_ms = (now_us - self._since_us) // 1000
        self._gone.clear()
        self._is_up = True
        self._since_us, self._since_s = now_us, time.time()
        self._take_secret(beat.secret)
        self._count(beat)
        words.close_breaker(StoreMode.BOTH)
        message = f"the store is back after {away_ms / 1000:.1f} s"
        logger.info("%s: %s, %d nodes", message, self._url, self._nodes)
        self._note("store_back", message, url=self._url, nodes=self._nodes, away_ms=away_ms)
        if beat.fleet.others_held_ms > away_ms:
            self._except("cut_off", "this node alone was cut off from the store: others went on to share it")
        if beat.is_list_lost:
            self._except("data_lost", _lost_text(beat) + ": what this node admitted is charged to it again")
        self._begin_return(beat)

    def _begin_return(self, beat: Beat) -> None:
        self._back_from_us = beat.fleet.time_us
        self._returned_us = boottime_us()
        self._held_since_us = 0
        if self._pushing is not None:
            self._pushing.cancel()
        self._pushing = asyncio.ensure_future(self._push(beat.is_list_lost))

    _returned_us = 0

    async def _push(self, everything: bool) -> None:
        if self._session is None:
            return
        try:
            await self._node.push(self._session, everything)
        except StoreFault as fault:
            self._fall(str(fault))
        else:
            self._held_since_us = boottime_us()
            self.hurry()

    def _settle(self, beat: Beat) -> None:
        """Share again, once what this node owed is told and the others are back."""
        if not self._held_since_us:
            return
        late = boottime_us() - self._returned_us > RETURN_US
        if beat.fleet.back >= self._wanted or late:
            self._node.words.close_breaker(StoreMode.SHARED)
            if beat.fleet.back < self._wanted:
                logger.warning("%d of %d nodes are not back", self._wanted - beat.fleet.back, self._wanted)
                if self._lost_data:
                    self._except("node_died", "a node did not come back: what it had admitted is not known")
            self._lost_data = False

    _lost_data = False

    # --- connections -----------------------------------------------------------------------------------------

    async def _reach(self) -> Session:
        """Links to where the servers are now; those that there are, when nothing has changed."""
        try:
            async with asyncio.timeout(HANG_S):
                where = await self._find()
        except TimeoutError:
            raise StoreFault(f"nobody says within {HANG_S:g} s where it is") from None
        session = self._session
        if session is not None and session.is_open and session.where == where:
            return session
        self._drop()
        self._session = await Session.open(where, self._credentials, DIAL_S, self._broken)
        return self._session

    async def _prove(self, session: Session) -> None:
        """Two PINGs in a row within the deadline; StoreFault when it hangs."""
        good = 0
        while good < 2:
            if await session.ping(self._deadline_s):
                good += 1
            elif await session.ping(HANG_S):  # late
                good = 0
            else:
                raise StoreFault(f"it did not answer a PING within {HANG_S:g} s")
            if good == 1:
                if hasattr(self, "_node"):
                    self._node.send(StoreOrder(session.where, self._credentials))
                    await asyncio.sleep(PROVE_S)

    def _broken(self, fault: StoreFault) -> None:
        self._fall(str(fault))

    def _drop(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    # --- for operators ---------------------------------------------------------------------------------------

    def _held_ms(self) -> int:
        """For how long this node has had the store, all of what it owed told; 0: not yet."""
        return max(1, (boottime_us() - self._held_since_us) // 1000) if self._held_since_us else 0

    def _except(self, reason: str, message: str, event: str = "limit_exception") -> None:
        self.exceptions[reason] += 1
        logger.warning("%s", message)
        self._note(event, message, reason=reason, url=self._url)

    def report(self) -> StoreReport:
        state = self._node.words.read()
        word = {StoreMode.SHARED: "shared", StoreMode.AWAY: "away", StoreMode.BOTH: "returning"}[state.mode]
        return StoreReport(
            word, self._url, self._since_s, self._why, state.nodes_now, state.nodes_assumed, dict(self.exceptions)
        )


def _lost_text(beat: Beat) -> str:
    if beat.is_list_lost:
        return "the store has lost what it held"
    return "the store is another server now, which may lack the last second"
