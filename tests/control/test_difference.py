"""What changed between two configurations, line by line."""

from __future__ import annotations

import msgspec
import pytest

from ratelimitd.config.model import (
    Ban,
    Bounds,
    Clients,
    Config,
    Limit,
    Listener,
    Log,
    Match,
    Rate,
    ReplyOverride,
    Route,
    Server,
    Timeouts,
    Upstream,
)
from ratelimitd.control.difference import differences

WEB = Upstream("web", (Server("http://127.0.0.1:9", host="127.0.0.1", port=9),))
PER_CLIENT = Limit("per-client", per=("client",), rates=(Rate(100, 10_000_000),))
PER_KEY = Limit("per-key", per=("header:x-key",), rates=(Rate(5, 60_000_000),), overrides=(("secret", ()),))
OLD = Config(upstreams=(WEB,), limits=(PER_CLIENT, PER_KEY), routes=(Route("web"),))


def limit(**changes: object) -> Config:
    changed = msgspec.structs.replace(PER_CLIENT, **changes)
    return msgspec.structs.replace(OLD, limits=(changed, PER_KEY))


def changed(**changes: object) -> Config:
    return msgspec.structs.replace(OLD, **changes)


@pytest.mark.parametrize(
    ("new", "lines"),
    [
        (OLD, []),
        (
            limit(rates=(Rate(200, 10_000_000),)),
            ["limit per-client: rate 100/10s -> 200/10s; what was counted stays"],
        ),
        (
            limit(rates=(Rate(100, 20_000_000),)),
            ["limit per-client: rate 100/10s -> 100/20s; window changed: counts start fresh"],
        ),
        (
            limit(rates=(Rate(100, 10_000_000), Rate(1_000, 3_600_000_000))),
            [
                "limit per-client: rate 100/10s -> [100/10s, 1k/h]; new window: counts of 1k/h start fresh",
            ],
        ),
        (limit(per=("host",)), ["limit per-client: per client -> host; other keys: counts start fresh"]),
        (limit(action="observe"), ["limit per-client: action reject -> observe"]),
        (limit(match=Match(path=("/login",))), ["limit per-client: match.path none -> /login"]),
        (
            limit(ban=Ban(20, 60_000, 600_000)),
            ["limit per-client: ban none -> {after: 20, within: 1m, for: 10m}"],
        ),
        (changed(store="redis://u:hunter2@h:6379/1"), ["store memory -> redis://h:6379/1"]),
        (changed(limits=(PER_KEY,)), ["limit per-client removed"]),
        (
            changed(limits=(Limit("all", per=("global",), rates=(Rate(9, 1_000_000),)), PER_CLIENT, PER_KEY)),
            ["limit all added: 9/s per global"],
        ),
        (
            changed(limits=(PER_KEY, PER_CLIENT)),
            ["order of limits per-client, per-key -> per-key, per-client"],
        ),
        (
            changed(
                limits=(PER_CLIENT, msgspec.structs.replace(PER_KEY, overrides=(("other", ()), ("x", ()))))
            ),
            ["limit per-key: overrides: 2 added, 1 removed, 0 changed, 2 now"],
        ),
        (changed(timeouts=Timeouts(head_ms=5_000)), ["timeouts.head 10s -> 5s"]),
        (changed(bounds=Bounds(connections=7)), ["bounds.connections 20000 -> 7"]),
        (changed(log=Log(access="none")), ["log.access json -> none"]),
        (changed(clients=Clients(allow=("192.0.2.7/32",))), ["clients.allow none -> 192.0.2.7/32"]),
        (
            changed(clients=Clients(deny=tuple(f"10.0.{n}.0/24" for n in range(100)))),
            ["clients.deny: 100 added, 0 removed, 100 now"],
        ),
        (changed(workers=3), ["workers 0 -> 3"]),
        (
            changed(listen=(Listener("127.0.0.1:81", host="127.0.0.1", port=81),)),
            ["listen 127.0.0.1:8080 removed", "listen 127.0.0.1:81 added"],
        ),
        (
            changed(upstreams=(Upstream("web", (Server("http://127.0.0.1:8", port=8),), keepalive=3),)),
            [
                "upstream web: server http://127.0.0.1:9 removed",
                "upstream web: server http://127.0.0.1:8 added",
                "upstream web: keepalive 64 -> 3",
            ],
        ),
        (changed(upstreams=(WEB, Upstream("b", WEB.servers))), ["upstream b added: http://127.0.0.1:9"]),
        (
            changed(routes=(Route("web", Match(path=("/api/*",)), priority="high"), Route("web"))),
            ["route 1 added: path /api/* -> web, priority high"],
        ),
        (changed(routes=(Route("web", priority="critical"),)), ["route 1: priority normal -> critical"]),
        (changed(replies=(ReplyOverride(429, b"sorry"),)), ["reply 429 added"]),
    ],
)
def test_lines(new: Config, lines: list[str]) -> None:
    assert list(differences(OLD, new)) == lines


def test_every_field_that_differs_makes_a_line() -> None:
    """No change of a single field is silent, whatever the struct."""

    def other(value: object) -> object:
        if isinstance(value, bool):
            return not value
        if isinstance(value, int | float):
            return value + 1
        return f"{value}x"

    for section in ("timeouts", "bounds", "headers", "shedding", "store_options", "log", "journal"):
        before = getattr(OLD, section)
        for name in before.__struct_fields__:
            after = msgspec.structs.replace(before, **{name: other(getattr(before, name))})
            assert len(differences(OLD, changed(**{section: after}))) == 1, f"{section}.{name}"


def test_no_secret_of_an_override_is_told() -> None:
    new = changed(limits=(PER_CLIENT, msgspec.structs.replace(PER_KEY, overrides=())))
    assert "secret" not in "".join((*differences(OLD, new), *differences(new, OLD)))


def test_another_password_of_the_store_is_told_without_it() -> None:
    old = changed(store="rediss+sentinel://u:hunter2@h1,h2/limits")
    (line,) = differences(old, changed(store="rediss+sentinel://u:pa@ss@h1,h2/limits"))
    where = "rediss+sentinel://h1,h2/limits"
    assert line == f"store {where} -> {where}; another user or password"
