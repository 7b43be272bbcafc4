"""A node's sign of life in the store, each second, and all that it hears in return.

It learns who the servers are, which secret keys are hashed with, how many nodes there are, and whether the
store has lost what it held: another server, a list of nodes that was begun anew, a clock that jumped ahead.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
from collections import deque
from typing import TYPE_CHECKING, Final

from ratelimitd.fleet import names, signs
from ratelimitd.segment.memory import boottime_us

if TYPE_CHECKING:
    from collections.abc import Callable

    from ratelimitd.control.store_session import Identity, Session

STEP_US: Final = 100_000  # of the store's clock, beyond what a call may have taken, that is told
HOUR_US: Final = 3_600_000_000
LARGEST_NONCE: Final = (1 << 32) - 1


@dataclasses.dataclass(frozen=True)
class Beat:
    """What one exchange brought. The first of a daemon finds nothing lost: it had nothing there."""

    fleet: signs.Fleet
    secret: bytes
    is_other_server: bool  # whose last writes may be missing
    is_list_lost: bool  # and so, most likely, all keys
    step_us: int  # by which the store's clock has jumped ahead; 0: it has not


class Heartbeat:
    """`secret` is fixed by the configuration; None: the fleet has one in the store."""

    def __init__(self, prefix: str, secret: bytes | None, clock_us: Callable[[], int] = boottime_us) -> None:
        self.node: Final = os.urandom(8)
        self.secret = secret or os.urandom(signs.SECRET_SIZE)
        self._is_fixed = secret is not None
        self._prefix = prefix
        self._clock_us = clock_us
        self._identity: Identity = ()
        self._incarnation = 0
        self._ahead_us: int | None = None  # of our clock the store's is, at most

    async def beat(self, session: Session, held_ms: int, back_since_us: int, away_us: int = 0) -> Beat:
        """Tell that this node is there, and for how long it has had the store, or was without it.
        StoreFault when there is no answer."""
        identity = await session.identity()
        secret = self.secret
        if not self._is_fixed:
            name = names.secret_key(self._prefix)
            secret = signs.read_secret(await session.run(signs.SECRET, name, *signs.offer(self.secret)))
        sent_us = self._clock_us()
        sign = signs.sign(self.node, nonce(), held_ms, back_since_us, away_us)
        fleet = signs.read_fleet(await session.run(signs.NODES, names.nodes_key(self._prefix), sign))
        found = Beat(
            fleet,
            secret,
            bool(self._identity) and identity != self._identity,
            self._incarnation not in (0, fleet.incarnation),
            self._step(fleet.time_us, sent_us),
        )
        self._identity, self._incarnation = identity, fleet.incarnation
        return found

    async def leave(self, session: Session) -> None:
        """Tell that this node ends: the others need not wait until they miss it."""
        await session.run(signs.NODES, names.nodes_key(self._prefix), signs.leave(self.node, nonce()))

    def _step(self, time_us: int, sent_us: int) -> int:
        before_us, self._ahead_us = self._ahead_us, time_us - sent_us
        if before_us is None:
            return 0
        least_us = time_us - self._clock_us() - before_us
        return least_us if least_us > STEP_US else 0


class NodesSeen:
    """The most nodes that there were within the last hour."""

    def __init__(self, least: int) -> None:
        self._least = least
        self._seen: deque[tuple[int, int]] = deque()  # (when, how many), fewer and fewer

    def note(self, nodes: int, now_us: int) -> None:
        while self._seen and (self._seen[-1][1] <= nodes):
            self._seen.pop()
        self._seen.append((now_us, nodes))

    def most(self, now_us: int) -> int:
        while len(self._seen) > 1 and self._seen[0][0] < now_us - HOUR_US:
            self._seen.popleft()
        return max(self._least, self._seen[0][1] if self._seen else 1)


def nonce() -> int:
    """The incarnation of a list, should a call make it."""
    return 1 + secrets.randbelow(LARGEST_NONCE)
