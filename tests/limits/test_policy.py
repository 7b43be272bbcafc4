"""A configuration's limits as rules: one for each rate, in the order of the file, under the segment's ids."""

from __future__ import annotations

from ratelimitd.config.model import Config, Limit, Match, Rate, Server, Upstream
from ratelimitd.http.target import RequestText
from ratelimitd.limits.policy import Rule, compile_rules, is_empty

SECOND_US = 1_000_000


def rules(*limits: Limit) -> tuple[Rule, ...]:
    config = Config(upstreams=(Upstream("web", (Server("http://127.0.0.1:1"),)),), limits=limits)
    ids: dict[tuple[str, int], int] = {}
    slots: dict[tuple[str, str], int] = {}
    return compile_rules(
        config,
        lambda name, window_us: ids.setdefault((name, window_us), len(ids) + 1),
        lambda name, decision: slots.setdefault((name, decision), 100 + len(slots)),
    )


def test_each_rate_is_a_rule() -> None:
    burst, steady = Rate(10, SECOND_US // 10), Rate(100, 10 * SECOND_US)
    first, second, third = rules(
        Limit("smooth", ("client",), (burst, steady)), Limit("all", ("global",), (Rate(9, SECOND_US),))
    )
    assert [rule.item for rule in (first, second, third)] == ["smooth", "smooth/10s", "all"]
    assert [rule.position for rule in (first, second, third)] == [0, 0, 1]
    assert [rule.source for rule in (first, second, third)] == ["client", "client", "global"]
    assert len({rule.limit_id for rule in (first, second, third)}) == 3
    assert (first.quota, first.window_us) == (10, SECOND_US // 10)
    # rounding a slot down would admit too much
    assert [rule.slot_us * 31 >= rule.window_us for rule in (first, second, third)] == [True] * 3
    assert first.allowed_slot == second.allowed_slot != third.allowed_slot
    assert len({first.allowed_slot, first.limited_slot, first.observed_slot}) == 3


def test_settings() -> None:
    (rule,) = rules(
        Limit(
            "keys", ("header:X-Api-Key",), (Rate(5, SECOND_US),), missing="deny", cost=2, action="observe",
            on_store_failure="open", match=Match(path=("/login",)),
        )
    )  # fmt: skip
    assert (rule.source, rule.header, rule.missing) == ("header", b"x-api-key", "deny")
    assert (rule.cost, rule.observe, rule.open_on_failure) == (2, True, True)
    assert rule.matcher is not None
    assert rule.matcher(RequestText("GET", "", "//LOGIN/".replace("//", "/"), lambda _: None))


def test_a_limit_of_every_request_has_nothing_to_match() -> None:
    (rule,) = rules(Limit("all", ("client",), (Rate(5, SECOND_US),)))
    assert rule.matcher is None
    assert is_empty(Match())
    assert not is_empty(Match(method=("GET",)))


def test_a_large_rate_has_units() -> None:
    (rule,) = rules(Limit("all", ("global",), (Rate(1_000_000, 86_400 * SECOND_US),)))
    assert rule.quota >> rule.shift < 1 << 16
