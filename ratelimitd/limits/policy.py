"""The limits of a configuration, compiled: one rule for each rate, in the order of the file.

A rule is all that a decision needs to know about a rate: whose requests it counts, how many, in which
window, under which id, and into which slots it is counted. Rules are frozen; a reload makes new ones under
another generation.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

from ratelimitd.http.target import Matcher
from ratelimitd.limits import fields, window

if TYPE_CHECKING:
    from collections.abc import Callable

    from ratelimitd.config.model import Config, Limit, Match

# More rates than this cannot be charged at once.
MOST_RULES: Final = 16


@dataclasses.dataclass(frozen=True)
class Rule:
    """One rate of one limit. `source` is `client`, `global` or `header`; `header` its name in lower case.

    The three slots count the decisions of the whole limit: each of its rates holds the same ones."""

    limit: str
    position: int  # of the limit, in the file
    item: str  # its name in the RateLimit fields
    source: str
    header: bytes
    missing: str
    quota: int
    window_us: int
    slot_us: int
    shift: int
    limit_id: int
    cost: int
    observe: bool
    open_on_failure: bool
    matcher: Matcher | None
    allowed_slot: int
    limited_slot: int
    observed_slot: int


def compile_rules(
    config: Config,
    limit_id: Callable[[str, int], int],
    decision_slot: Callable[[str, str], int],
) -> tuple[Rule, ...]:
    """The rules of `config`. `limit_id(name, window_us)` and `decision_slot(name, decision)` look up what the
    segment's registries say."""
    rules = []
    for position, limit in enumerate(config.limits):
        source, _, name = limit.per[0].partition(":")
        slots = [decision_slot(limit.name, decision) for decision in ("allowed", "limited", "observed")]
        for nth, rate in enumerate(limit.rates):
            rules.append(
                Rule(
                    limit=limit.name,
                    position=position,
                    item=fields.item_name(limit.name, rate.window_us, nth),
                    source=source,
                    header=name.lower().encode("latin-1"),
                    missing=limit.missing,
                    quota=rate.count,
                    window_us=rate.window_us,
                    slot_us=window.slot_us(rate.window_us),
                    shift=window.shift_for(rate.count),
                    limit_id=limit_id(limit.name, rate.window_us),
                    cost=limit.cost,
                    observe=limit.action == "observe",
                    open_on_failure=limit.on_store_failure == "open",
                    matcher=limit_matcher(limit),
                    allowed_slot=slots[0],
                    limited_slot=slots[1],
                    observed_slot=slots[2],
                )
            )
    return tuple(rules)


def limit_matcher(limit: Limit) -> Matcher | None:
    """None for a limit of every request."""
    return None if is_empty(limit.match) else Matcher(limit.match, for_limit=True)


def is_empty(match: Match) -> bool:
    """Whether a match holds for every request."""
    return not (match.host or match.path or match.method or match.header)
