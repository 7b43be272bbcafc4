"""Bans, their end and resets of keys reach the whole fleet: each node tells the list in the store what it has
changed, and hears with every heartbeat what others have.

What is done here acts here at once. While the store is away it waits, bounded, and whoever asked is told so.
The order of the list is everybody's order. A list that the store has lost is told again by those who know it,
so that a node which joins later gets the bans that run.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import secrets
from collections import Counter
from typing import TYPE_CHECKING, Final, Literal

from ratelimitd.control.places import Place
from ratelimitd.control.store_session import Refusal
from ratelimitd.fleet import changes as fleet
from ratelimitd.fleet import names
from ratelimitd.fleet.changes import Change, Heard, Kind
from ratelimitd.limits.table import TableBusy
from ratelimitd.segment.memory import boottime_us

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ratelimitd.control.journal import Note
    from ratelimitd.control.keytexts import Parts
    from ratelimitd.control.places import Places, Window
    from ratelimitd.control.store_session import Session
    from ratelimitd.proxy.orders import Banned

logger = logging.getLogger(__name__)

KEPT_US: Final = 3_600_000_000  # for who was away: what is no ban, or is longer than the ban that it ends
MOST_WAITING: Final = 1_024
AT_ONCE: Final = 64
MOST_CALLS: Final = 128  # of one heartbeat
LATE_US: Final = 5_000_000
LEAST_US: Final = 1_000_000  # what is over so soon is not told again
TELL_US: Final = 10_000_000
SETTLE_S: Final = 1.5
SOON_S: Final = 0.1  # bans of rules come in swarms
LARGEST_NONCE: Final = (1 << 32) - 1
LARGEST_INCARNATION: Final = (1 << 16) - 1
# What a server answers to a script that finds another program's key.
_FOREIGN: Final = ("ERR", "WRONGTYPE")
_WORDS: Final = {Kind.BAN: "ban", Kind.BAN_BY_RULE: "ban", Kind.UNBAN: "unban", Kind.RESET: "reset"}


@dataclasses.dataclass(frozen=True)
class Spread:
    """What became of the changes of an operator: the others have them within 2 s, or hear of them when the
    store is back, or never, and `why`."""

    state: Literal["told", "waiting", "refused"]
    why: str = ""


@dataclasses.dataclass(frozen=True)
class _Known:
    """A change, and until when it holds or is told to others."""

    kind: int
    salt: int
    key: int
    until_us: int

    def wire(self, identity: bytes, now_us: int) -> Change:
        return Change(identity, self.kind, self.salt, self.key, self.until_us - now_us)


@dataclasses.dataclass(frozen=True)
class _Own:
    """Where a change of this node is made, and of which key where its text is known."""

    place: Place
    parts: Parts | None


class Changes:
    """`hurry` has the next heartbeat come at once; `is_up` says whether there is a store to tell."""

    def __init__(
        self,
        places: Places,
        prefix: str,
        note: Note,
        hurry: Callable[[], None],
        is_up: Callable[[], bool],
        clock_us: Callable[[], int] = boottime_us,
        room: int = fleet.ROOM,
    ) -> None:
        self._places = places
        self._prefix = prefix
        self._note = note
        self._hurry = hurry
        self._is_up = is_up
        self._clock_us = clock_us
        self._room = room
        self._began_us = self._heard_us = clock_us()
        self._known: dict[bytes, _Known] = {}  # what holds, in the order of the list, with what waits
        self._waiting: dict[bytes, _Own | None] = {}  # what is to be told; None: told before, and lost
        self._unapplied: set[tuple[int, int]] = set()
        self._incarnation = self._newest = 0
        self._is_doubtful = False
        self._settled = asyncio.Event()
        self._why = ""  # an operator's change was not told
        self._untold, self._untold_why, self._told_us = 0, "", 0
        self._is_foreign = False
        self._soon: asyncio.TimerHandle | None = None

    # --- what this node changes -----------------------------------------------------------------------------

    def add(self, kind: Kind, place: Place, until_us: int, parts: Parts | None = None) -> None:
        """Tell the others of what was done here."""
        if len(self._waiting) >= MOST_WAITING:
            self._refuse([kind], f"{MOST_WAITING} others wait to be told already")
            return
        identity = os.urandom(fleet.ID_SIZE)
        self._known[identity] = _Known(kind, place.window.salt, place.hash, until_us)
        self._waiting[identity] = _Own(place, parts)
        self._settled.clear()

    def banned(self, report: Banned) -> None:
        """What a worker tells of keys that a `ban` rule has banned."""
        windows = {window.limit_id: window for window in self._places.by_salt().values()}
        for key, limit_id, until_us in report.keys:
            if limit_id in windows:
                self.add(Kind.BAN_BY_RULE, Place(windows[limit_id], key), until_us)
        if self._soon is None:
            self._soon = asyncio.get_running_loop().call_later(SOON_S, self._tell_soon)

    def _tell_soon(self) -> None:
        self._soon = None
        self._hurry()

    async def settle(self) -> Spread:
        """What becomes of what was added, in a bounded time."""
        if self._waiting and self._is_up():
            self._hurry()
            try:
                async with asyncio.timeout(SETTLE_S):
                    await self._settled.wait()
            except TimeoutError:
                return Spread("waiting")
        if self._why:
            why, self._why = self._why, ""
            return Spread("refused", why)
        return Spread("waiting" if self._waiting else "told")

    def adopt(self) -> None:
        """Keys are hashed with another secret now: what operators did is done again, the rest is no more."""
        waiting = [(self._known[identity], own) for identity, own in self._waiting.items()]
        self._known.clear()
        self._waiting.clear()
        self._unapplied.clear()
        self._incarnation = self._newest = 0
        for change, own in waiting:
            if own is not None and own.parts is not None:
                place = self._places.place(own.place.window, own.parts)
                self.add(Kind(change.kind), place, change.until_us, own.parts)
                self._unapplied.add((change.salt, place.hash))

    def close(self) -> None:
        """The daemon ends: what nobody was told is lost."""
        if self._soon is not None:
            self._soon.cancel()
        if self._waiting:
            self._told_us = 0
            self._refuse(self._kinds(self._waiting), "this node ends before the store is back")

    # --- with each heartbeat --------------------------------------------------------------------------------

    async def beat(self, session: Session, *, is_doubtful: bool) -> None:
        """Hear what is new, and tell what waits. `is_doubtful`: the store may have lost what it held.
        StoreFault when it is lost."""
        self._is_doubtful |= is_doubtful
        self._apply_again()
        try:
            await self._exchange(session)
        except fleet.ForeignList as fault:
            self._give_up(str(fault))
        except Refusal as refusal:
            if refusal.kind not in _FOREIGN:
                raise
            self._give_up(f"{refusal}; is {names.changes_key(self._prefix).decode()} another program's?")
        else:
            self._is_foreign = False
            self._tell_what_was_missed()
        self._refuse((), "")
        if not self._waiting:
            self._settled.set()

    async def _exchange(self, session: Session) -> None:
        for _ in range(MOST_CALLS):
            self._forget_what_is_over()
            if self._is_doubtful:  # what the list lacks comes before what waits
                self._incarnation = self._newest = 0
            batch = [] if self._is_doubtful else list(self._waiting.items())[:AT_ONCE]
            for identity, own in batch:
                if own is not None and self._known[identity].kind == Kind.RESET:
                    await self._clear(session, identity, own.place)
            sent_us = self._clock_us()
            added = [self._known[identity].wire(identity, sent_us) for identity, _ in batch]
            nonce = _number(LARGEST_NONCE)
            asked = fleet.arguments(nonce, self._incarnation, self._newest, added, self._room)
            reply = await session.run(fleet.CHANGES, names.changes_key(self._prefix), *asked)
            if not self._hear(fleet.read(reply), sent_us):
                self._drop(
                    [change.id for change in added if change.id in self._waiting],
                    f"the fleet's list of changes is full ({self._room} of them)",
                )
            self._is_doubtful = False
            if not self._waiting:
                return

    async def _clear(self, session: Session, identity: bytes, place: Place) -> None:
        """What the store has counted for a key, and then once more what this node has: it may have asked
        meanwhile, and would believe for 10 s that the key is used up."""
        prefix = names.key_prefix(self._prefix, place.window.limit.name, place.window.window_us)
        key = b"%b%016x}" % (prefix, place.hash)
        await session.run(fleet.RESET, key, *fleet.reset_arguments(_number(LARGEST_INCARNATION)))
        self._apply(self._known[identity], self._places.by_salt(), is_new=True)

    def _hear(self, heard: Heard, sent_us: int) -> bool:
        """Whether that was all of a list, and not what is new in one that is known. What is known and not
        there is to be told again."""
        is_whole = heard.incarnation != self._incarnation or heard.newest < self._newest or not heard.newest
        missing = set(self._known) - set(self._waiting) if is_whole else set()
        lasting = [change for change in heard.changes if change.left_us > 0]
        new = {change.id for change in lasting} - set(self._known)
        # Of a list that is read once more, what is known is done already, unless another node came between.
        touched = {(c.salt, c.key) for c in lasting if c.id in new or c.id in self._waiting}
        windows = self._places.by_salt()
        for change in lasting:
            self._waiting.pop(change.id, None)
            missing.discard(change.id)
            self._known.pop(change.id, None)
            known = _Known(change.kind, change.salt, change.key, sent_us + change.left_us)
            self._known[change.id] = known
            if (change.salt, change.key) in touched:
                self._apply(known, windows, is_new=change.id in new)
        self._tell_news([change.kind for change in lasting if change.id in new])
        self._incarnation, self._newest = heard.incarnation, heard.newest
        again = {i for i in missing if self._known[i].until_us > sent_us + LEAST_US}
        if again:
            wanted = again | self._waiting.keys()
            self._waiting = {i: self._waiting.get(i) for i in self._known if i in wanted}
        return is_whole

    def _tell_news(self, kinds: Iterable[int]) -> None:
        news = Counter(_WORDS[Kind(kind)] for kind in kinds if kind in _WORDS)
        if news:
            counted = ", ".join(f"{count} {word}{'s' * (count > 1)}" for word, count in news.items())
            self._note("fleet_change", f"heard from other nodes: {counted}", **news)

    # --- in the table ---------------------------------------------------------------------------------------

    def _apply(self, change: _Known, windows: Mapping[int, Window], *, is_new: bool) -> None:
        """Do here what the list says; what cannot be done now is done with the next heartbeat."""
        if change.salt not in windows:
            self._unapplied.add((change.salt, change.key))  # a reload may bring the limit
            return
        place, now_us = Place(windows[change.salt], change.key), self._clock_us()
        try:
            match change.kind:
                case Kind.BAN | Kind.BAN_BY_RULE:
                    self._places.ban(place, change.until_us, now_us, shortens=change.kind == Kind.BAN)
                case Kind.UNBAN:
                    self._places.unban(place, now_us)
                case Kind.RESET if is_new:
                    self._reset(place, change.until_us - KEPT_US, now_us)
                case _:
                    pass
        except TableBusy:
            self._unapplied.add((change.salt, change.key))

    def _reset(self, place: Place, at_us: int, now_us: int) -> None:
        """One that is heard of late leaves the node's own count: it holds what was admitted since, and
        decides nothing once limits are shared again."""
        if at_us >= max(self._began_us, now_us - LATE_US):
            self._places.reset(place, now_us)

    def _apply_again(self) -> None:
        if not self._unapplied:
            return
        again, self._unapplied = self._unapplied, set()
        windows = self._places.by_salt()
        last = {(change.salt, change.key): change for change in self._known.values()}
        for key in again & last.keys():
            self._apply(last[key], windows, is_new=True)

    # --- what is lost is said -------------------------------------------------------------------------------

    def _forget_what_is_over(self) -> None:
        now_us = self._clock_us()
        for identity in [i for i, change in self._known.items() if change.until_us <= now_us]:
            del self._known[identity]
            self._waiting.pop(identity, None)

    def _tell_what_was_missed(self) -> None:
        before_us, self._heard_us = self._heard_us, self._clock_us()
        if self._heard_us - before_us > KEPT_US:
            hours = (self._heard_us - before_us) / 3.6e9
            message = (
                f"this node did not hear the fleet for {hours:.1f} h, and changes are kept for 1 h: keys "
                "that were reset or unbanned meanwhile may still be refused here; do so once more"
            )
            logger.warning("%s", message)
            self._note("changes_missed", message)

    def _give_up(self, why: str) -> None:
        """The list is none; that is said when it is found, and for each change of an operator."""
        if not self._is_foreign:
            self._is_foreign = True
            message = f"bans and resets of keys act on each node alone: {why}"
            logger.warning("%s", message)
            self._note("changes_untold", message)
        self._drop(list(self._waiting), why)

    def _drop(self, identities: Iterable[bytes], why: str) -> None:
        kinds = self._kinds(identities)
        for identity in identities:
            del self._waiting[identity], self._known[identity]
        self._refuse(kinds, why)

    def _kinds(self, identities: Iterable[bytes]) -> list[int]:
        return [self._known[identity].kind for identity in identities]

    def _refuse(self, kinds: Sequence[int], why: str) -> None:
        """Seldom in the log: bans of rules come in swarms."""
        self._untold += len(kinds)
        self._untold_why = why or self._untold_why
        if any(kind != Kind.BAN_BY_RULE for kind in kinds):
            self._why = why
        now_us = self._clock_us()
        if self._untold and now_us - self._told_us >= TELL_US:
            message = f"changes of keys that act on this node only: {self._untold}; {self._untold_why}"
            logger.warning("%s", message)
            self._note("changes_untold", message, count=self._untold)
            self._untold, self._told_us = 0, now_us


def _number(largest: int) -> int:
    return 1 + secrets.randbelow(largest)
