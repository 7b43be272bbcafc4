"""Where the table has a key, and what is done to it there, by the names that all nodes of a fleet share.

A limit's window is named by its salt and a key by its hash: no text is needed to ban a key that another node
has banned. The supervisor takes a stripe's lock as a decision does; TableBusy when it is not free in time.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from ratelimitd.limits import window
from ratelimitd.limits.keys import material, salt
from ratelimitd.limits.policy import ban_name
from ratelimitd.limits.table import siphash24

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ratelimitd.config.model import Config, Limit
    from ratelimitd.control.keytexts import Parts
    from ratelimitd.limits.table import Table
    from ratelimitd.segment.memory import Segment


@dataclasses.dataclass(frozen=True)
class Window:
    """One window of a limit, which this node has."""

    limit: Limit
    window_us: int
    limit_id: int

    @property
    def salt(self) -> int:
        return salt(self.limit.name, self.window_us)


@dataclasses.dataclass(frozen=True)
class Place:
    """A key in one window of its limit."""

    window: Window
    hash: int


class Places:
    """Of the limits of the configuration in force."""

    def __init__(self, segment: Segment, table: Table, config: Callable[[], Config]) -> None:
        self._segment = segment
        self._table = table
        self._config = config

    def window(self, limit: Limit, window_us: int) -> Window:
        return Window(limit, window_us, self._segment.registry.limit_id(limit.name, window_us))

    def by_salt(self) -> Mapping[int, Window]:
        """All windows of rates that this node counts in."""
        found = (
            self.window(limit, rate.window_us)
            for limit in self._config().limits
            for rates in (limit.rates, *(rates for _, rates in limit.overrides))
            for rate in rates
        )
        return {one.salt: one for one in found}

    def place(self, window: Window, parts: Parts) -> Place:
        """Where a key of which the text is known is counted."""
        return Place(window, siphash24(material(window.salt, parts), self._segment.limit_secret))

    def ban(self, place: Place, until_us: int, now_us: int, *, shortens: bool = True) -> None:
        """Refuse the key until then; without `shortens` a longer ban stays."""
        if not shortens and self.banned_until_us(place, now_us) >= until_us:
            return
        self._table.ban(place.hash, place.window.limit_id, until_us, now_us)

    def banned_until_us(self, place: Place, now_us: int) -> int:
        peeked = self._table.peek(place.hash, window.slot_us(place.window.window_us), now_us)
        return peeked.banned_until_us if peeked else 0

    def unban(self, place: Place, now_us: int) -> bool:
        """Lift a ban, and forget the refusals that would lead to the next one; whether the key was there."""
        self._forget_refusals(place, now_us)
        return self._table.unban(place.hash, now_us)

    def reset(self, place: Place, now_us: int) -> bool:
        """Forget the key, its ban included; whether it was there."""
        self._forget_refusals(place, now_us)
        return self._table.reset(place.hash, now_us)

    def _forget_refusals(self, place: Place, now_us: int) -> None:
        """They are counted under the hash of the key's first rate."""
        limit = place.window.limit
        if limit.ban is not None:
            ban_salt = salt(ban_name(limit.name), limit.ban.within_ms * 1000)
            counted = material(ban_salt, (("client", place.hash.to_bytes(8, "little")),))
            self._table.reset(siphash24(counted, self._segment.limit_secret), now_us)
