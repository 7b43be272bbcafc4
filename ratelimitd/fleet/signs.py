"""What a node says to the fleet and hears from it, beside leases: signs of life and the secret.

Each call is one script of one key, whose name the caller gives; all keys expire. Here are the arguments of
these scripts as bytes, and their replies as values; StoreFault for a reply that is none.
"""

from __future__ import annotations

import dataclasses
import struct
from typing import Final

from ratelimitd.errors import StoreFault
from ratelimitd.fleet.script import Script

NODES: Final = Script.load("nodes.lua")
SECRET: Final = Script.load("secret.lua")

NODES_KEPT_MS: Final = 3_600_000
SECRET_KEPT_MS: Final = 7 * 86_400_000  # longer than a fleet is switched off and its longest windows
SECRET_SIZE: Final = 16

_SIGN: Final = struct.Struct("<8s5d")


@dataclasses.dataclass(frozen=True)
class Fleet:
    """The nodes, as the store knows them now."""

    alive: int
    back: int  # those that have the store and have told it what they admitted without it
    others_held_ms: int  # for how long a node has had the store that gave a sign while this one was away
    incarnation: int  # another one: the store has lost the list
    time_us: int  # the store's clock


def sign(node: bytes, nonce: int, held_ms: int, back_since_us: int, away_us: int = 0) -> bytes:
    """The argument of NODES for a node that is alive."""
    return _SIGN.pack(node, nonce, held_ms, back_since_us, away_us, NODES_KEPT_MS)


def leave(node: bytes, nonce: int) -> bytes:
    """The argument of NODES for a node that ends."""
    return _SIGN.pack(node, nonce, -1, 0, 0, NODES_KEPT_MS)


def offer(secret: bytes) -> tuple[bytes, bytes]:
    """The arguments of SECRET."""
    return secret, b"%d" % SECRET_KEPT_MS


def read_fleet(reply: object) -> Fleet:
    if not isinstance(reply, list) or len(reply) != 5 or not all(isinstance(number, int) for number in reply):
        raise StoreFault(f"it answered a sign of life with {reply!r}, which is no answer")
    return Fleet(*reply)


def read_secret(reply: object) -> bytes:
    if not isinstance(reply, bytes) or len(reply) != SECRET_SIZE:
        raise StoreFault("it holds no hash secret of this program under our prefix: choose another prefix")
    return reply
