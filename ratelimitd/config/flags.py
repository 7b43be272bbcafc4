"""The command line's part of the configuration: flags that override a file, or stand alone.

Each reader takes the text of one flag and raises ValueError with a sentence that says what is wrong.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import msgspec

from ratelimitd.config import addresses, checks, limits, model, units, unsupported
from ratelimitd.config.sections import MOST_WORKERS

LIMIT = "COUNT/WINDOW for each client, or PER=COUNT/WINDOW: 100/10s, global=10k/s, header:NAME=5/min"
DEFAULT_UPSTREAM = "default"


@dataclasses.dataclass(frozen=True)
class Flags:
    """What was given; None and () mean that nothing was. ValueError when two flags contradict each other."""

    listen: model.Listener | None = None
    servers: tuple[model.Server, ...] = ()
    rates: tuple[tuple[str, model.Rate], ...] = ()  # (per, rate)
    store: str | None = None
    workers: int | None = None
    admin: tuple[str, int] | None = None

    def __post_init__(self) -> None:
        windows: set[tuple[str, int]] = set()
        keys: dict[str, str] = {}
        for per, rate in self.rates:
            name = _limit_name(per)
            if keys.setdefault(name, per) != per:
                raise ValueError(f"there are two limits of the name {name}: for {keys[name]} and for {per}")
            if (per, rate.window_us) in windows:
                window = units.format_duration(rate.window_us // 1_000)
                raise ValueError(f"the limit {name} has two rates with the window {window}")
            windows.add((per, rate.window_us))

    def replaced(self) -> frozenset[str]:
        """The sections of a file in whose place they stand."""
        values = {
            "listen": self.listen,
            "upstreams": self.servers,
            "routes": self.servers,
            "limits": self.rates,
            "store": self.store,
            "admin": self.admin,
        }
        return frozenset(section for section, value in values.items() if value)


def listen(text: str) -> model.Listener:
    return model.Listener(**addresses.bind(text))


def upstream(text: str) -> model.Server:
    server = model.Server(**addresses.server(text))
    _refuse_unsupported("upstreams.*.servers[]", server)
    return server


def limit(text: str) -> tuple[str, model.Rate]:
    """`RATE` for each client, or `PER=RATE`."""
    per, _, rate = text.rpartition("=")
    key = limits.per(per or "client")
    _refuse_unsupported("limits[].per[]", key)
    return key, units.rate(rate)


def store(text: str) -> str:
    url = addresses.store(text)
    _refuse_unsupported("store", url)
    return url


def workers(text: str) -> int:
    if text == "auto":
        return 0
    if re.fullmatch(r"[0-9]{1,4}", text) is None or not 1 <= int(text) <= MOST_WORKERS:
        raise ValueError(f"is neither auto nor a whole number from 1 to {MOST_WORKERS}")
    return int(text)


def apply(config: model.Config, given: Flags) -> model.Config:
    """`config` with what the flags say instead; ConfigError when it does not hold together."""
    changes: dict[str, Any] = {}
    if given.listen:
        changes["listen"] = (given.listen,)
    if given.servers:
        changes["upstreams"] = (model.Upstream(name=DEFAULT_UPSTREAM, servers=given.servers),)
        changes["routes"] = ()
    if given.rates:
        changes["limits"] = _limits(given.rates)
    if given.store:
        changes["store"] = given.store
    if given.workers is not None:
        changes["workers"] = given.workers
    if given.admin:
        host, port = given.admin
        changes["admin"] = msgspec.structs.replace(config.admin, host=host, port=port, required=True)
    return checks.complete(msgspec.structs.replace(config, **changes), None)


def _limits(rates: tuple[tuple[str, model.Rate], ...]) -> tuple[model.Limit, ...]:
    """One limit for each key; several rates of one key must all hold."""
    grouped: dict[str, tuple[model.Rate, ...]] = {}
    for per, rate in rates:
        grouped[per] = (*grouped.get(per, ()), rate)
    return tuple(
        model.Limit(name=_limit_name(per), per=(per,), rates=rates) for per, rates in grouped.items()
    )


def _limit_name(per: str) -> str:
    return "global" if per == "global" else f"per-{per.partition(':')[2] or per}"


def _refuse_unsupported(path: str, value: Any) -> None:
    missing = unsupported.feature(path, value)
    if missing:
        raise ValueError(f"needs {missing}: not supported by this version")
