"""What operators do with single keys: find them by their texts, look, reset, ban, unban.

A key is hashed exactly as a decision hashes it, so no list of keys is needed: any text can be asked for. A
text may be the key of several limits; without a limit's name it means all of them.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import TYPE_CHECKING

from ratelimitd.config import units
from ratelimitd.control.answers import KeyAnswer, KeyChange, TopKey, WindowAnswer
from ratelimitd.control.changes import KEPT_US
from ratelimitd.control.keytexts import Parts, Texts, may_be, shown, value_of
from ratelimitd.control.places import Place, Places
from ratelimitd.errors import ClientFault
from ratelimitd.fleet.changes import Kind
from ratelimitd.limits import window
from ratelimitd.limits.keys import address
from ratelimitd.limits.policy import override_value
from ratelimitd.segment.memory import boottime_us

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ratelimitd.config.model import Config, Limit, Rate
    from ratelimitd.control.changes import Changes
    from ratelimitd.limits.table import Peeked, Table
    from ratelimitd.segment.memory import Segment


@dataclasses.dataclass(frozen=True)
class Key:
    """A key of one limit."""

    limit: Limit
    parts: Parts


class Keyring:
    """The keys of the configuration in force. ValueError of its methods is for who asked. What they change is
    told to `changes`, where there is a fleet."""

    def __init__(
        self,
        segment: Segment,
        table: Table,
        texts: Texts,
        config: Callable[[], Config],
        changes: Changes | None = None,
    ) -> None:
        self._segment = segment
        self._table = table
        self._texts = texts
        self._config = config
        self._changes = changes
        self._in_table = Places(segment, table, config)

    def find(self, texts: Sequence[str], limit: str | None) -> tuple[Key, ...]:
        """The keys that `texts` mean: one for each thing that the limit counts by, or what a list shows."""
        for text in texts:
            if is_network(text):
                raise ValueError(
                    f"{text!r} is a network, and a key is a single one: put networks into clients.deny, "
                    "or name an address"
                )
        limits = [one for one in self._config().limits if limit in (None, one.name)]
        if not limits:
            names = ", ".join(one.name for one in self._config().limits) or "none"
            raise ValueError(f"there is no limit {limit!r}; there are: {names}")
        listed = self._listed(" ".join(texts), {one.name: one for one in limits})
        found = listed or tuple(
            Key(one, parts) for one in limits for parts in self._readings(one, texts, named=limit is not None)
        )
        if not found:
            if limit is None:
                raise ValueError(
                    f"no limit counts by {' and '.join(map(repr, texts))}; name one with its name"
                )
            raise ValueError(
                f"{limit} counts by {' and '.join(limits[0].per)}: give a value for each of them"
            )
        return found

    def look(self, key: Key) -> KeyAnswer:
        """A key as it stands."""
        now_us = boottime_us()
        windows, banned_us = [], 0
        for rate, place in zip(self._rates(key), self._places(key), strict=True):
            peeked = self._table.peek(place.hash, window.slot_us(rate.window_us), now_us)
            windows.append(_window_answer(rate, peeked, now_us))
            banned_us = max(banned_us, peeked.banned_until_us if peeked else 0)
        known = self._texts.get(key.limit.name, key.parts)
        return KeyAnswer(
            key.limit.name,
            self.text(key.parts),
            tuple(windows),
            known.refused if known else 0,
            max(0, banned_us - now_us) / 1e6,
        )

    def reset(self, key: Key) -> KeyChange:
        """Forget what was counted, a ban included."""
        now_us = boottime_us()
        places = self._places(key)
        self._tell_unbanned(key, places, now_us)
        found = [self._in_table.reset(place, now_us) for place in places]
        self._texts.forget(key.limit.name, key.parts)
        for place in places:
            self._tell(Kind.RESET, place, now_us + KEPT_US, key)
        return self._change(key, any(found))

    def ban(self, key: Key, for_us: int) -> KeyChange:
        """Refuse the key for `for_us` from now on."""
        now_us = boottime_us()
        places = self._places(key)
        if not places:
            raise ValueError(f"{key.limit.name} counts requests in flight, by which nobody can be banned")
        was_known = [
            self._table.peek(place.hash, window.slot_us(place.window.window_us), now_us) is not None
            for place in places
        ]
        for place in places:
            self._in_table.ban(place, now_us + for_us, now_us)
            self._tell(Kind.BAN, place, now_us + for_us, key)
        self._texts.banned(key.limit.name, key.parts, now_us + for_us, now_us)
        return self._change(key, any(was_known))

    def unban(self, key: Key) -> KeyChange:
        """Lift a ban; what was counted stays, but for the refusals that would lead to the next ban."""
        now_us = boottime_us()
        places = self._places(key)
        self._tell_unbanned(key, places, now_us)
        found = [self._in_table.unban(place, now_us) for place in places]
        if self._texts.get(key.limit.name, key.parts):
            self._texts.banned(key.limit.name, key.parts, 0, now_us)
        return self._change(key, any(found))

    def list(self) -> tuple[KeyAnswer, ...]:
        """The keys of which the texts are kept, those banned first, then by refusals at present."""
        now_us = boottime_us()
        limits = {limit.name: limit for limit in self._config().limits}
        ordered = sorted(
            self._texts, key=lambda known: (known.banned_until_us <= now_us, -known.per_s(now_us))
        )
        return tuple(
            self.look(Key(limits[known.limit], known.parts)) for known in ordered if known.limit in limits
        )

    def top(self, count: int) -> tuple[TopKey, ...]:
        """The keys that are refused most at present."""
        now_us = boottime_us()
        ordered = sorted(self._texts, key=lambda known: -known.per_s(now_us))[:count]
        return tuple(
            TopKey(known.limit, self.text(known.parts), known.refused, round(known.per_s(now_us), 3))
            for known in ordered
            if known.refused
        )

    def text(self, parts: Parts) -> str:
        return shown(parts, self._segment.limit_secret)

    def _tell_unbanned(self, key: Key, places: Iterable[Place], now_us: int) -> None:
        """Told for as long as the ban may last on a node that is away."""
        for place in places:
            until_us = max(now_us + KEPT_US, self._in_table.banned_until_us(place, now_us))
            self._tell(Kind.UNBAN, place, until_us, key)

    def _tell(self, kind: Kind, place: Place, until_us: int, key: Key) -> None:
        if self._changes is not None:
            self._changes.add(kind, place, until_us, key.parts)

    def _change(self, key: Key, was_known: bool) -> KeyChange:
        return KeyChange(key.limit.name, self.text(key.parts), was_known)

    def _listed(self, text: str, limits: dict[str, Limit]) -> tuple[Key, ...]:
        """The keys that a list shows as `text`: a value that is a secret can be named no other way."""
        return tuple(
            Key(limits[known.limit], known.parts)
            for known in self._texts
            if known.limit in limits and self.text(known.parts) == text
        )

    def _readings(self, limit: Limit, texts: Sequence[str], *, named: bool) -> Iterator[Parts]:
        """What `texts` can mean to a limit. An address is a client, and only what begins with a slash a path,
        unless the limit is named and counts by something else."""
        own = tuple(per.partition(":")[0] for per in limit.per)
        if own == ("global",):
            if list(texts) == ["global"] or (named and not texts):
                yield (("global", b""),)
            return
        if len(own) != len(texts):
            return
        addresses = tuple("client" if address(text) is not None else "" for text in texts)
        if named or all(
            (kind == "client") == (found == "client") and (kind != "path" or text.startswith("/"))
            for kind, found, text in zip(own, addresses, texts, strict=True)
        ):
            yield from self._parts(own, texts)
        stand_in = tuple(found or kind for found, kind in zip(addresses, own, strict=True))
        if stand_in != own and may_be(limit, stand_in):
            yield from self._parts(stand_in, texts)

    def _parts(self, kinds: Sequence[str], texts: Sequence[str]) -> Iterator[Parts]:
        clients = self._config().clients
        try:
            yield tuple(
                (kind, value_of(kind, text, clients)) for kind, text in zip(kinds, texts, strict=True)
            )
        except ClientFault as error:
            raise ValueError(str(error)) from None

    def _places(self, key: Key) -> tuple[Place, ...]:
        """Where the table has it, by its rates."""
        table = self._in_table
        return tuple(
            table.place(table.window(key.limit, rate.window_us), key.parts) for rate in self._rates(key)
        )

    def _rates(self, key: Key) -> tuple[Rate, ...]:
        """The rates by which a key is counted: the limit's, or its own."""
        clients = self._config().clients
        prefixes = (clients.ipv4_prefix, clients.ipv6_prefix)
        kind, value = key.parts[0]
        if len(key.parts) == 1 and kind == key.limit.per[0].partition(":")[0]:
            for text, rates in key.limit.overrides:
                if override_value(kind, text, prefixes) == value:
                    return rates
        return key.limit.rates


def is_network(text: str) -> bool:
    """Whether a text is a network in CIDR notation."""
    try:
        return "/" in text and bool(ipaddress.ip_network(text, strict=False))
    except ValueError:
        return False


def _window_answer(rate: Rate, peeked: Peeked | None, now_us: int) -> WindowAnswer:
    used = peeked.used if peeked else 0
    denied_us = peeked.denied_until_us - now_us if peeked and used >= rate.count else 0
    return WindowAnswer(units.format_rate(rate), used, max(0, rate.count - used), max(0, denied_us) / 1e6)
