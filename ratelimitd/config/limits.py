"""The settings of a limit: what it counts, how much it allows, and what happens beyond that."""

from __future__ import annotations

import difflib
import re
from collections import abc as collections
from typing import Any

from ratelimitd.config import kinds, matching, model, units
from ratelimitd.config.document import Node
from ratelimitd.config.lists import Overrides
from ratelimitd.config.reader import SPREAD, Context, Either, ListOf, MapOf, Section, Setting

_YEAR_MS = 366 * 86_400_000
PER_WORDS = "client, global, host, path, method, header:NAME, cookie:NAME or query:NAME"
PER_PATTERN = rf"client|global|host|path|method|(header|cookie|query):{kinds.TOKEN_PATTERN}"


def per(text: str) -> str:
    """One part of a key; names of headers are compared in lower case."""
    if re.fullmatch(PER_PATTERN, text) is None:
        raise ValueError(f"is no key{_meant(text[:60])}")
    source, _, name = text.partition(":")
    return f"header:{name.lower()}" if source == "header" else text


_WORDS = ("client", "global", "host", "path", "method")
_ALIASES = {
    **dict.fromkeys(("ip", "ip_address", "addr", "address", "remote_addr", "source", "user"), "client"),
    **dict.fromkeys(("all", "everybody", "everyone", "total", "server"), "global"),
    **dict.fromkeys(("url", "uri", "endpoint", "target"), "path"),
    **dict.fromkeys(("domain", "hostname"), "host"),
    **dict.fromkeys(("authorization", "user-agent"), "header:{}"),
}


def _meant(text: str) -> str:
    word = text.lower()
    close = difflib.get_close_matches(word, _WORDS, n=1)
    alias = _ALIASES.get(word) or ("header:{}" if word.startswith("x-") else close[0] if close else "")
    return f" (did you mean {alias.format(text)}?)" if alias else ""


PER = kinds.text(PER_WORDS, convert=per, editors=PER_PATTERN)

RATES = ListOf(
    kinds.rate(), lone=True, unique=lambda rate: units.format_duration(rate.window_us // 1_000), noun="window"
)


COST_HEADER = Section(
    model.CostHeader,
    (
        Setting(
            "header", kinds.header_name(), "The header that carries the cost.", field="name", required=True
        ),
        Setting(
            "max",
            kinds.whole(1, units.LARGEST_COUNT),
            "The most that is believed.",
            "max_cost",
            required=True,
        ),
    ),
)

BAN = Section(
    model.Ban,
    (
        Setting("after", kinds.whole(1, 1_000_000), "Refusals.", required=True, example=20),
        Setting(
            "within", kinds.duration(1, _YEAR_MS), "In this time.", "within_ms", required=True, example="1m"
        ),
        Setting(
            "for", kinds.duration(1, _YEAR_MS), "How long it lasts.", "for_ms", required=True, example="10m"
        ),
    ),
)


class _Cost(Either):
    """A number, or the header that carries it: one of two fields of the model."""

    def read(self, node: Node, context: Context) -> dict[str, Any]:
        value = super().read(node, context)
        return {"cost_header": value} if isinstance(value, model.CostHeader) else {"cost": value}

    def show(self, value: Any) -> Any:
        return value["cost"]


def _check(values: dict[str, Any]) -> collections.Iterator[tuple[str, str]]:
    rates, concurrent = values.get("rates"), values.get("concurrent")
    if rates is None and concurrent is None:
        yield "", "the limit has neither `rate` nor `concurrent`"
    if rates is not None and concurrent is not None:
        yield "concurrent", "a limit has either `rate` or `concurrent`: write two limits"
    keys = values["per"]
    if "global" in keys and len(keys) > 1:
        yield "per", "`global` is one key for everybody and cannot be combined"
    cost = values.get("cost", 1)
    smallest = min(rates or (), key=lambda rate: rate.count, default=None)
    if smallest and cost > smallest.count:
        yield (
            "cost",
            f"{cost} is more than {units.format_rate(smallest)} allows: every request would be refused",
        )


LIMIT = Section(
    model.Limit,
    (
        Setting(
            "name",
            kinds.name("the name of a limit"),
            "Its name in metrics, logs and RateLimit fields.",
            required=True,
            example="per-client",
        ),
        Setting(
            "per",
            ListOf(PER, lone=True, noun="key"),
            f"Whose requests are counted together: {PER_WORDS}; or a list of them.",
            required=True,
            example="client",
        ),
        Setting(
            "missing",
            kinds.choice("client", "skip", "deny"),
            "What stands in for an absent or empty value: the client, no limit, or a refusal.",
        ),
        Setting(
            "rate",
            RATES,
            "COUNT/WINDOW, or a list of them: all must hold ([10/100ms, 100/10s] smooths bursts).",
            field="rates",
            example="100/10s",
        ),
        Setting(
            "concurrent",
            kinds.whole(1, 1_000_000),
            "Instead of rate: requests in flight for each key; a tunnel is one until it ends.",
            example=10,
        ),
        Setting("match", matching.MATCH, "Which requests it is for; without it every request."),
        Setting(
            "cost",
            _Cost(kinds.whole(1, units.LARGEST_COUNT), COST_HEADER),
            "What a request counts; {header: NAME, max: N} believes that header from trusted proxies.",
            field=SPREAD,
        ),
        Setting("action", kinds.choice("reject", "observe"), "observe: counted and logged, never refused."),
        Setting(
            "on_store_failure",
            kinds.choice("local", "open", "closed"),
            "While the store is away: this node's share, everything, or nothing.",
        ),
        Setting(
            "overrides",
            Overrides(MapOf(kinds.loose_text("a key"), RATES, noun="a mapping of keys to rates")),
            "Other rates for single keys; also file:PATH with lines of a key, a space and its rates.",
            example={"198.51.100.9": "1000/10s"},
        ),
        Setting(
            "ban",
            BAN,
            "Who is refused this often is denied for a while.",
            example={"after": 20, "within": "1m", "for": "10m"},
        ),
    ),
    check=_check,
)
