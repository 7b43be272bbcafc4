"""What a decision needs before it is asked: rules, a table, counters. Decisions themselves need the head of a
request, and are tested through the daemon (tests/proxy/test_limits.py)."""

from __future__ import annotations

import dataclasses

import pytest

from ratelimitd.config.model import Config, Limit, Match, Rate, Server, Upstream
from ratelimitd.limits.decision import Client, Limiter
from ratelimitd.limits.policy import Rule, compile_rules
from tests.limits.tables import TableMemory

SECRET = bytes(range(16))


def rules(*limits: Limit) -> tuple[Rule, ...]:
    config = Config(upstreams=(Upstream("web", (Server("http://127.0.0.1:1"),)),), limits=limits)
    return compile_rules(config, lambda *_: 1, lambda *_: 0)


def limit(name: str = "per-client", match: Match | None = None) -> Limit:
    return Limit(name, ("client",), (Rate(5, 1_000_000),), match=match or Match())


def limiter(made: tuple[Rule, ...]) -> Limiter:
    return Limiter(made, TableMemory().table, memoryview(bytearray(64)).cast("q"), SECRET, 1)


def test_a_client() -> None:
    client = Client("192.0.2.1", b"4\xc0\0\2\1", denied=True)
    assert (client.address, client.key_bytes) == ("192.0.2.1", b"4\xc0\0\2\1")
    assert (client.allowed, client.denied) == (False, True)


def test_only_limits_that_match_need_the_request_in_comparable_form() -> None:
    assert not limiter(rules(limit())).needs_text
    assert limiter(rules(limit(), limit("login", Match(path=("/login",))))).needs_text


def test_no_more_rates_than_can_be_charged_at_once() -> None:
    sixteen = rules(*[limit(f"limit-{n}") for n in range(16)])
    limiter(sixteen)
    with pytest.raises(ValueError, match="at most 16"):
        limiter((*sixteen, dataclasses.replace(sixteen[0], item="one too many")))
