"""Warnings: configurations that are valid and that their authors may regret.

Each rule looks at the whole Config and yields a place in the tree and a sentence that says what will happen
and what to do about it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

from ratelimitd.config import checks, model, store_advice, units
from ratelimitd.config.document import Node, place_of
from ratelimitd.errors import Problem

Advice = tuple[tuple[str | int, ...], str]  # the way to a node, and the sentence

EXPIRES_SOON_S = 14 * 86_400
LONG_WINDOW_US = 3_600_000_000
LIVE_SHARE = 0.6  # of the table's entries that live keys fill before others are evicted
_CHOSEN_BY_CLIENTS = ("header:", "cookie:", "query:", "host", "path")


def warnings(
    config: model.Config, root: Node, now_s: float, not_of_the_file: frozenset[str] = frozenset()
) -> list[Problem]:
    """What is unwise in `config`, with its places in the tree. Sections that are `not_of_the_file` have none
    there, so nothing is said of them alone."""
    found = [advice for rule in _RULES for advice in rule(config)]
    found += _certificates(config, now_s)
    found += store_advice.found(config)
    return [
        place_of(root, *path).problem(sentence)
        for path, sentence in found
        if not path or path[0] not in not_of_the_file
    ]


def _keys_chosen_by_clients(config: model.Config) -> Iterator[Advice]:
    guarded = {limit.match for limit in config.limits if limit.action == "reject" and _guards(limit)}
    for index, limit in enumerate(config.limits):
        if not guarded & {model.Match(), limit.match} and all(
            key.startswith(_CHOSEN_BY_CLIENTS) for key in limit.per
        ):
            sentence = (
                f"limit {limit.name!r} hangs on what the client sends: who sends another value each time is "
                "never limited. Add a limit per client or a global one"
            )
            yield ("limits", index, "per"), sentence


def _guards(limit: model.Limit) -> bool:
    """Whether no client can get around the limit by what it sends."""
    return "client" in limit.per or limit.per == ("global",)


def _trust_in_everybody(config: model.Config) -> Iterator[Advice]:
    effects = {
        "trusted_proxies": "every client can name itself any address and so evade each limit per client",
        "allow": "no client is ever limited",
        "deny": "every client is refused",
    }
    for name, effect in effects.items():
        for network in getattr(config.clients, name):
            if network.endswith("/0"):
                yield ("clients", name), f"{name} holds {network}: {effect}. List the networks that you mean"


def _small_table(config: model.Config) -> Iterator[Advice]:
    """Every connection may come from a client of its own, with one entry for each rate that has keys."""
    rates = sum(len(limit.rates) for limit in config.limits if limit.per != ("global",))
    rates = min(rates, checks.MOST_RATES)  # since no request is counted by more
    needed = rates * config.bounds.connections
    live = int(config.store_options.entries * LIVE_SHARE)
    if needed > live:
        sentence = (
            f"the table holds {live} live keys, but {config.bounds.connections} connections with "
            f"{rates} {'rate' if rates == 1 else 'rates'} each may need {needed}: keys would be evicted and "
            f"their limits exceeded. Set store_options.entries to {int(needed / LIVE_SHARE) + 1} or more"
        )
        yield ("store_options", "entries"), sentence


def _windows_longer_than_memory(config: model.Config) -> Iterator[Advice]:
    """A window of an hour is over before a restart for an update has become a habit; one of a day is not."""
    for index, limit in enumerate(config.limits):
        longest_us = max((rate.window_us for rate in limit.rates), default=0)
        if longest_us > LONG_WINDOW_US:
            sentence = (
                f"limit {limit.name!r} counts over {units.format_duration(longest_us // 1_000)}, and a "
                "restart of the daemon forgets what was counted: whoever used it up may begin anew. A reload "
                "keeps it; restart as seldom as you can, or choose a shorter window"
            )
            yield ("limits", index, "rate"), sentence


def _servers_without_health_check(config: model.Config) -> Iterator[Advice]:
    """Of a lone server there is nothing to choose: a check would only turn one error into another."""
    for upstream in config.upstreams:
        if len(upstream.servers) > 1 and upstream.health is None:
            sentence = (
                f"upstream {upstream.name!r} has {len(upstream.servers)} servers and no health check: one "
                "that answers with errors only keeps its share of the requests, and one that hangs is found "
                "out by clients. Add `health` with a path that every server answers"
            )
            yield ("upstreams", upstream.name, "servers"), sentence


def _header_that_nobody_may_bring(config: model.Config) -> Iterator[Advice]:
    for index, listener in enumerate(config.listen):
        if listener.proxy_protocol and not config.clients.trusted_proxies:
            sentence = (
                "clients.trusted_proxies is empty, so every connection to this address is closed: name the "
                "proxies that bring the PROXY header there"
            )
            yield ("listen", index, "proxy_protocol"), sentence


def _no_limit(config: model.Config) -> Iterator[Advice]:
    if not config.limits:
        yield (), "there are no limits: every request is forwarded. `limits` says what a client may ask for"


def _public_admin(config: model.Config) -> Iterator[Advice]:
    """Metrics and keys tell a good deal, and only a token keeps strangers from changes."""
    host = config.admin.host
    if config.admin.required and host and not store_advice.is_loopback(host):
        sentence = (
            f"the admin address {host} can be reached from elsewhere: metrics, keys and events are shown to "
            "whoever connects. Bind it to 127.0.0.1, or see to it that a firewall is before it"
        )
        yield ("admin", "bind"), sentence


def _certificates(config: model.Config, now_s: float) -> Iterator[Advice]:
    for index, listener in enumerate(config.listen):
        for position, certificate in enumerate(listener.tls):
            place = ("listen", index, "tls", position, "certificate")
            left_s = certificate.expires_s - now_s
            day = dt.datetime.fromtimestamp(certificate.expires_s, dt.UTC).date()
            if left_s <= 0:
                yield place, f"the certificate expired on {day}: clients refuse it. Renew it, then reload"
            elif left_s < EXPIRES_SOON_S:
                yield place, f"the certificate expires on {day}: renew it in time, then reload"
            if position and not certificate.names:
                yield place, "the certificate has no DNS name, so that no client is ever given it"


def _routes_never_reached(config: model.Config) -> Iterator[Advice]:
    for index, route in enumerate(config.routes[:-1]):
        if route.match == model.Match():
            yield (
                ("routes", index + 1),
                f"never reached: the route before, to {route.upstream!r}, takes every request",
            )
            return


_RULES = (
    _keys_chosen_by_clients,
    _trust_in_everybody,
    _small_table,
    _windows_longer_than_memory,
    _servers_without_health_check,
    _header_that_nobody_may_bring,
    _routes_never_reached,
    _no_limit,
    _public_admin,
)
