"""The limits of a configuration, compiled: what each counts by, its rates, and who has others.

Everything that a decision needs to know is here and frozen; a reload makes new ones under another generation.
Rates of one limit stand together. Whoever has an override is counted by its rates instead, in the windows of
the same limit where they are as long.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final, Literal

from ratelimitd.http.matching import Matcher
from ratelimitd.http.target import normal_host
from ratelimitd.limits import fields, keys, window

if TYPE_CHECKING:
    from collections.abc import Callable

    from ratelimitd.config.model import Config, Limit, Match, Rate

_TEXTUAL: Final = frozenset({"host", "path"})


@dataclasses.dataclass(frozen=True)
class Rule:
    """One rate. `item` is its name in the RateLimit fields."""

    item: str
    quota: int
    window_us: int
    slot_us: int
    shift: int
    limit_id: int
    salt: int


@dataclasses.dataclass(frozen=True)
class BanRule:
    """After `after` refusals within the rule's window a key is refused for `for_us`."""

    limit_id: int
    salt: int
    slot_us: int
    after: int
    for_us: int


@dataclasses.dataclass(frozen=True)
class LimitRules:
    """One limit. `parts` are what it counts by, (kind, name) each; `overrides` are (value, its rates).

    The three slots count its decisions. `concurrent` is 0 for a limit of rates, and `concurrent_salt` that of
    the keys under which places are held."""

    name: str
    parts: tuple[tuple[str, str], ...]
    missing: str
    rules: tuple[Rule, ...]
    overrides: tuple[tuple[bytes, tuple[Rule, ...]], ...]
    concurrent: int
    concurrent_salt: int
    cost: int
    cost_header: bytes
    most_cost: int
    ban: BanRule | None
    observe: bool
    on_failure: Literal["local", "open", "closed"]
    matcher: Matcher | None
    allowed_slot: int
    limited_slot: int
    observed_slot: int
    fallback_slot: int

    @property
    def needs_text(self) -> bool:
        """Whether a decision needs the request in comparable form."""
        return self.matcher is not None or any(kind in _TEXTUAL for kind, _ in self.parts)


def compile_limits(
    config: Config,
    limit_id: Callable[[str, int], int],
    decision_slot: Callable[[str, str], int],
    fallback_slot: Callable[[str], int],
) -> tuple[LimitRules, ...]:
    """The limits of `config`. `limit_id(name, window_us)` and `decision_slot(name, decision)` look up what
    the segment's registries say, and so does `fallback_slot(name)` for decisions without the store."""
    return tuple(_compile(config, limit, limit_id, decision_slot, fallback_slot) for limit in config.limits)


def windows_us(limit: Limit) -> tuple[tuple[str, int], ...]:
    """Every (name, window) of a limit that needs an id: rates, overrides, its ban, places held (window 0)."""
    rates = [*limit.rates, *(rate for _, rates in limit.overrides for rate in rates)]
    names = [(limit.name, rate.window_us) for rate in rates]
    if limit.concurrent:
        names.append((limit.name, 0))
    if limit.ban is not None:
        names.append((ban_name(limit.name), limit.ban.within_ms * 1000))
    return tuple(dict.fromkeys(names))


def ban_name(limit: str) -> str:
    """Under which name the refusals of a limit are counted; `/` is in no limit's name."""
    return f"{limit}/ban"


def limit_matcher(limit: Limit) -> Matcher | None:
    """None for a limit of every request."""
    return None if is_empty(limit.match) else Matcher(limit.match, for_limit=True)


def is_empty(match: Match) -> bool:
    """Whether a match holds for every request."""
    return not (match.host or match.path or match.method or match.header)


def _compile(
    config: Config,
    limit: Limit,
    limit_id: Callable[[str, int], int],
    decision_slot: Callable[[str, str], int],
    fallback_slot: Callable[[str], int],
) -> LimitRules:
    parts = tuple((kind, name) for kind, _, name in (per.partition(":") for per in limit.per))
    allowed, limited, observed = (
        decision_slot(limit.name, decision) for decision in ("allowed", "limited", "observed")
    )
    prefixes = (config.clients.ipv4_prefix, config.clients.ipv6_prefix)
    return LimitRules(
        name=limit.name,
        parts=parts,
        missing=limit.missing,
        rules=_rules(limit, limit.rates, limit_id),
        overrides=tuple(
            (override_value(parts[0][0], text, prefixes), _rules(limit, rates, limit_id))
            for text, rates in limit.overrides
        ),
        concurrent=limit.concurrent,
        concurrent_salt=keys.salt(limit.name, 0),
        cost=limit.cost,
        cost_header=limit.cost_header.name.lower().encode("latin-1") if limit.cost_header else b"",
        most_cost=limit.cost_header.max_cost if limit.cost_header else 0,
        ban=_ban(limit, limit_id),
        observe=limit.action == "observe",
        on_failure=limit.on_store_failure,
        matcher=limit_matcher(limit),
        allowed_slot=allowed,
        limited_slot=limited,
        observed_slot=observed,
        fallback_slot=fallback_slot(limit.name),
    )


def _ban(limit: Limit, limit_id: Callable[[str, int], int]) -> BanRule | None:
    if limit.ban is None:
        return None
    within_us = limit.ban.within_ms * 1000
    return BanRule(
        limit_id=limit_id(ban_name(limit.name), within_us),
        salt=keys.salt(ban_name(limit.name), within_us),
        slot_us=window.slot_us(within_us),
        after=limit.ban.after,
        for_us=limit.ban.for_ms * 1000,
    )


def _rules(limit: Limit, rates: tuple[Rate, ...], limit_id: Callable[[str, int], int]) -> tuple[Rule, ...]:
    return tuple(
        Rule(
            item=fields.item_name(limit.name, rate.window_us, nth),
            quota=rate.count,
            window_us=rate.window_us,
            slot_us=window.slot_us(rate.window_us),
            shift=window.shift_for(rate.count),
            limit_id=limit_id(limit.name, rate.window_us),
            salt=keys.salt(limit.name, rate.window_us),
        )
        for nth, rate in enumerate(rates)
    )


def override_value(kind: str, text: str, prefixes: tuple[int, int]) -> bytes:
    """What the key of an override stands for, in the form in which requests are counted."""
    if kind == "client":
        return keys.client_bytes(text, *prefixes)
    if kind == "host":
        return normal_host(text.encode("latin-1", "replace")).encode("latin-1")
    return text.encode("utf-8")
