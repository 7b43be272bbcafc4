"""What `take.lua` and `reset.lua` have to answer, written a second time: keys in a dictionary, instants as
arguments."""

from __future__ import annotations

import dataclasses

from ratelimitd.fleet.take import AHEAD_SLOTS, CLOSED_SLOTS, LONGEST_LEASE_US, Take

KEEP_MS = 20_000
RESET_KEPT_MS = 60_000
MOST_UNITS = 2**32 - 1


@dataclasses.dataclass(frozen=True)
class Key:
    incarnation: int
    offset_us: int
    seen_us: int
    counts: dict[int, int]
    expires_ms: int
    before: int = 0  # incarnation that an operator's reset has ended


class Model:
    """One Redis: its keys, as the script leaves them."""

    def __init__(self) -> None:
        self.keys: dict[bytes, Key] = {}

    def take(self, name: bytes, take: Take, now_us: int) -> list[int]:
        """The reply to `take` at `now_us` of the server's clock."""
        key = self.keys.get(name)
        if key and key.expires_ms <= now_us // 1000:
            key = None
        incarnation, offset_us, counts = (
            (key.incarnation, key.offset_us, dict(key.counts)) if key else (0, 0, {})
        )
        clock_us = now_us + offset_us
        if key and clock_us < key.seen_us:
            offset_us += key.seen_us - clock_us
            clock_us = key.seen_us
        current = clock_us // take.slot_us
        before = key.before if key else 0
        was_reset = take.known != 0 and take.known == before
        if take.known and take.known != incarnation and not was_reset and take.recent < 0:
            return [-1, 0, current, 0, now_us, 0, 0, incarnation, current]
        lost = take.known != incarnation and not was_reset
        incarnation = incarnation or take.nonce
        self._charge_list(counts, take, current, lost=lost, was_reset=was_reset)
        counts[current] = counts.get(current, 0) + take.debt
        used = sum(units for slot, units in counts.items() if slot >= current - CLOSED_SLOTS)
        free = max(0, take.limit - used)
        granted = min(take.need, free)
        free -= granted
        at = min(current + AHEAD_SLOTS, (clock_us + take.hold_us) // take.slot_us)
        counts[at] = counts.get(at, 0) + granted
        ahead = min(AHEAD_SLOTS, LONGEST_LEASE_US // take.slot_us) if free * 4 > take.limit else 0
        lease = min(take.want * (ahead + 1), free // take.nodes)
        last = current + ahead
        counts[last] = counts.get(last, 0) + lease
        used += granted + lease
        denied_us = self._denied_us(counts, take, current, clock_us, used) if granted < take.need else 0
        kept = {s: min(n, MOST_UNITS) for s, n in counts.items() if n > 0 and s >= current - CLOSED_SLOTS}
        newest = max([current, *kept])
        window_us = (newest - current + CLOSED_SLOTS + 2) * take.slot_us
        expires_ms = now_us // 1000 + -(-window_us // 1000) + KEEP_MS
        self.keys[name] = Key(incarnation, offset_us, clock_us, kept, expires_ms, before)
        lease_left_us = min((last + 1) * take.slot_us - clock_us, LONGEST_LEASE_US)
        granted_left_us = (at + 1) * take.slot_us - clock_us
        return [
            granted, lease, last, lease_left_us, now_us, used, denied_us, incarnation, at, granted_left_us,
        ]  # fmt: skip

    def reset(self, name: bytes, nonce: int, now_us: int) -> bool:
        """What `reset.lua` does to a key."""
        key = self.keys.get(name)
        if key is None or key.expires_ms <= now_us // 1000:
            return False
        incarnation = nonce if nonce != key.incarnation else nonce % 65_535 + 1
        expires_ms = now_us // 1000 + RESET_KEPT_MS
        self.keys[name] = Key(incarnation, key.offset_us, key.seen_us, {}, expires_ms, key.incarnation)
        return True

    @staticmethod
    def _charge_list(
        counts: dict[int, int], take: Take, current: int, *, lost: bool, was_reset: bool
    ) -> None:
        """Returns are taken back where they were charged, own admissions charged where they are missing."""
        for told, units in take.returns:
            newest = current + AHEAD_SLOTS
            slot = newest - (newest - told) % 65_536
            if not lost and not was_reset and slot in counts:
                counts[slot] = max(0, counts[slot] - units)
        for age, units in take.own:
            if age <= CLOSED_SLOTS and (lost or age <= take.recent):
                counts[current - age] = counts.get(current - age, 0) + units
        if take.returns or take.own:
            counts.update({slot: min(units, MOST_UNITS) for slot, units in counts.items()})

    @staticmethod
    def _denied_us(counts: dict[int, int], take: Take, current: int, clock_us: int, used: int) -> int:
        rest = used
        for slot in range(current - CLOSED_SLOTS, current + AHEAD_SLOTS + 1):
            rest -= counts.get(slot, 0)
            if rest + take.least <= take.limit:
                return (slot + CLOSED_SLOTS + 1) * take.slot_us - clock_us
        return 0
