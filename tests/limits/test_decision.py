"""What a decision needs before it is asked: limits, a table, counters. Decisions themselves need the head of
a request, and are tested through the daemon (tests/proxy/test_limits.py, tests/e2e/test_limits.py)."""

from __future__ import annotations

import mmap

from ratelimitd.config.model import Config, Limit, Match, Rate, Server, Upstream
from ratelimitd.limits.charges import Client
from ratelimitd.limits.decision import Limiter
from ratelimitd.limits.inflight import HEADER_SIZE, TABLE_SIZE, InFlight
from ratelimitd.limits.policy import LimitRules, compile_limits
from tests.limits.tables import TableMemory

SECRET = bytes(range(16))


def compiled(*limits: Limit) -> tuple[LimitRules, ...]:
    config = Config(upstreams=(Upstream("web", (Server("http://127.0.0.1:1"),)),), limits=limits)
    return compile_limits(config, lambda *_: 1, lambda *_: 0, lambda _: 0)


def limit(name: str = "per-client", per: str = "client", match: Match | None = None) -> Limit:
    return Limit(name, (per,), (Rate(5, 1_000_000),), match=match or Match())


def limiter(limits: tuple[LimitRules, ...]) -> Limiter:
    inflight = InFlight(mmap.mmap(-1, HEADER_SIZE + TABLE_SIZE), 0, 1, 0)
    return Limiter(limits, TableMemory().table, inflight, memoryview(bytearray(64)).cast("q"), SECRET, 1)


def test_a_client() -> None:
    client = Client("192.0.2.1", b"4\xc0\0\2\1", denied=True)
    assert (client.address, client.key_bytes) == ("192.0.2.1", b"4\xc0\0\2\1")
    assert (client.allowed, client.denied) == (False, True)


def test_only_some_limits_need_the_request_in_comparable_form() -> None:
    assert not limiter(compiled(limit())).needs_text
    assert not limiter(compiled(limit(per="cookie:sid"))).needs_text
    assert limiter(compiled(limit(), limit("login", match=Match(path=("/login",))))).needs_text
    assert limiter(compiled(limit(per="host"))).needs_text


def test_more_limits_than_apply_to_one_request() -> None:
    many = compiled(*[limit(f"limit-{n}", match=Match(path=(f"/{n}",))) for n in range(40)])
    assert limiter(many).names[39] == "limit-39"
