"""What changes single keys on all nodes: bans, their end, counts that are forgotten; as bytes and values.

All nodes read one list in the store, in its order, and every change has an id: what is told twice is there
once. A key goes by its hash and its limit by the salt that all nodes hash with, so that the list names
nobody. How long a change holds is counted by the store's clock, and told as what is left of it.
"""

from __future__ import annotations

import dataclasses
import enum
import struct
from typing import TYPE_CHECKING, Final

from ratelimitd.errors import StoreFault
from ratelimitd.fleet.script import Script

if TYPE_CHECKING:
    from collections.abc import Sequence

CHANGES: Final = Script.load("changes.lua")
RESET: Final = Script.load("reset.lua")

# 168 KB at most, which every heartbeat reads; bans of rules leave room for operators.
ROOM: Final = 4_096
ROOM_BY_RULE: Final = 3_072
RESET_KEPT_MS: Final = 60_000  # of the key itself: longer than a node that has the store takes to hear of it
ID_SIZE: Final = 8

_ASKED: Final = struct.Struct("<5d")
_ADDED: Final = struct.Struct("<8sdBQQ")
_STORED: Final = struct.Struct("<8sddBQQ")


class ForeignList(StoreFault):
    """What is under our name is no list of ours."""


class Kind(enum.IntEnum):
    """What is done to a key."""

    BAN = 1
    UNBAN = 2
    RESET = 3  # its ban included
    BAN_BY_RULE = 4  # never shortens another one


@dataclasses.dataclass(frozen=True)
class Change:
    """One key of one window of a limit. `left_us`: for how long a ban lasts yet, or for how long nodes that
    were away are told of what is no ban."""

    id: bytes
    kind: int
    salt: int
    key: int
    left_us: int


@dataclasses.dataclass(frozen=True)
class Heard:
    """The changes that a node did not know, in the order of the list; incarnation 0: there is no list."""

    incarnation: int
    newest: int
    changes: tuple[Change, ...]


def arguments(
    nonce: int, incarnation: int, known: int, added: Sequence[Change] = (), room: int = ROOM
) -> tuple[bytes, ...]:
    """The arguments of CHANGES: tell what came after `known`, and add these."""
    asked = _ASKED.pack(nonce, incarnation, known, room, room * ROOM_BY_RULE // ROOM)
    if not added:
        return (asked,)
    return asked, b"".join(
        _ADDED.pack(change.id, change.left_us, change.kind, change.salt, change.key) for change in added
    )


def read(reply: object) -> Heard:
    """ForeignList for what is no answer of the script."""
    if isinstance(reply, list) and len(reply) == 4:
        incarnation, newest, now_us, stored = reply
        if isinstance(stored, bytes) and len(stored) % _STORED.size == 0:
            found = tuple(
                Change(identity, kind, salt, key, int(over_us) - now_us)
                for identity, _, over_us, kind, salt, key in _STORED.iter_unpack(stored)
            )
            return Heard(incarnation, newest, found)
    raise ForeignList("the list of changes under our prefix is none of this program: choose another prefix")


def reset_arguments(nonce: int) -> tuple[bytes, bytes]:
    """The arguments of RESET."""
    return b"%d" % nonce, b"%d" % RESET_KEPT_MS
