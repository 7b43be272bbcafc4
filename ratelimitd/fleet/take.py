"""The one script of the fleet, `take.lua`: what it is asked and what it answers, as bytes and values.

A call charges one key and may bring a lease: units that this node may spend by itself until the slot that
they are charged to is over. All times are whole microseconds. Slots are numbered on the key's own clock,
which only the script knows: a slot number is good for being sent back, and for nothing else.
"""

from __future__ import annotations

import dataclasses
import struct
from typing import Final, Self

from ratelimitd.errors import StoreFault
from ratelimitd.fleet.script import Script

TAKE: Final = Script.load("take.lua")
CLOSED_SLOTS: Final = 31
AHEAD_SLOTS: Final = 4
LONGEST_LEASE_US: Final = 10_000_000

_NUMBERS: Final = struct.Struct("<12d")
_FIELDS: Final = 10
_AGAIN_FIELDS: Final = 9  # the script stops before there is a slot for waiters


@dataclasses.dataclass(frozen=True)
class Take:
    """One call. `returns` are (slot, units) of leases that were not spent, of the incarnation `known`; `own`
    is this node's own admissions of the window as (age in slots, units), for a key that Redis has lost."""

    slot_us: int
    limit: int
    need: int  # units for the requests that wait
    want: int  # units that the node uses in a slot
    nodes: int
    known: int  # incarnation that the node knows; 0: none
    nonce: int  # incarnation of the key, should this call make it
    debt: int = 0  # units that were admitted already and are charged in any case
    least: int = 1  # smallest cost among the requests that wait
    hold_us: int = 0  # for how long what is granted may be kept before it is spent
    recent: int = -1  # of `own`: slots to charge although the incarnation is known; -1: `own` is not sent
    returns: tuple[tuple[int, int], ...] = ()
    own: tuple[tuple[int, int], ...] = ()

    def arguments(self) -> tuple[bytes, ...]:
        """ARGV of the script."""
        numbers = _NUMBERS.pack(
            self.slot_us,
            self.limit,
            self.need,
            self.want,
            self.nodes,
            self.known,
            self.nonce,
            self.debt,
            self.least,
            self.hold_us,
            self.recent,
            len(self.returns),
        )
        pairs = (*self.returns, *self.own)
        if not pairs:
            return (numbers,)
        return numbers, struct.pack(f"<{2 * len(pairs)}d", *(number for pair in pairs for number in pair))


@dataclasses.dataclass(frozen=True)
class Taken:
    """What a call brought. Microseconds left are as of the instant at which the script ran, which is after
    the call was sent: whoever counts them from the sending can only stop too early."""

    granted: int  # units for those who wait
    lease: int  # units for those who come
    lease_slot: int  # the last slot in which the lease may be spent
    lease_left_us: int
    time_us: int  # Redis's clock
    used: int  # units charged in the window, what is granted here included
    denied_us: int  # until `least` units are free; 0: nobody was denied
    incarnation: int
    granted_slot: int
    granted_left_us: int

    @property
    def is_lost(self) -> bool:
        """The key is not the one that the node knows: nothing was charged, and the next call must bring the
        node's own list."""
        return self.granted < 0

    @classmethod
    def read(cls, reply: object) -> Self:
        """Raises StoreFault for anything but ten whole numbers, or the nine of a key that was lost."""
        if not isinstance(reply, list) or not all(isinstance(number, int) for number in reply):
            raise StoreFault(f"the script answered {reply!r}, which are no numbers")
        numbers = [*reply, 0] if len(reply) == _AGAIN_FIELDS and reply[0] == -1 else reply
        if len(numbers) != _FIELDS or (numbers[0] < 0) is not (numbers is not reply):
            raise StoreFault(f"the script answered {len(reply)} numbers, and {_FIELDS} were expected")
        return cls(*numbers)
