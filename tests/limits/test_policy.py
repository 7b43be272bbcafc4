"""A configuration's limits compiled: rates, windows, values and settings, under the segment's ids."""

from __future__ import annotations

from ratelimitd.config.model import Ban, Config, Limit, Match, Rate, Server, Upstream
from ratelimitd.http.matching import RequestText
from ratelimitd.limits import policy
from ratelimitd.limits.policy import LimitRules, compile_limits, is_empty

SECOND_US = 1_000_000
LIMIT = Limit(
    "per-client",
    per=("client",),
    rates=(Rate(100, 10_000_000), Rate(10, 100_000)),
    overrides=(("192.0.2.1", (Rate(5, 60_000_000),)), ("192.0.2.2", (Rate(9, 10_000_000),))),
    ban=Ban(after=20, within_ms=60_000, for_ms=600_000),
)


def compiled(*limits: Limit) -> tuple[LimitRules, ...]:
    config = Config(upstreams=(Upstream("web", (Server("http://127.0.0.1:1"),)),), limits=limits)
    ids: dict[tuple[str, int], int] = {}
    slots: dict[tuple[str, str], int] = {}
    return compile_limits(
        config,
        lambda name, window_us: ids.setdefault((name, window_us), len(ids) + 1),
        lambda name, decision: slots.setdefault((name, decision), 100 + len(slots)),
        lambda _: 7,
    )


def test_each_rate_has_a_window_of_its_own() -> None:
    burst, steady = Rate(10, SECOND_US // 10), Rate(100, 10 * SECOND_US)
    smooth, everybody = compiled(
        Limit("smooth", ("client",), (burst, steady)), Limit("all", ("global",), (Rate(9, SECOND_US),))
    )
    rules = (*smooth.rules, *everybody.rules)
    assert [rule.item for rule in rules] == ["smooth", "smooth/10s", "all"]
    assert [limit.parts for limit in (smooth, everybody)] == [(("client", ""),), (("global", ""),)]
    assert len({rule.limit_id for rule in rules}) == 3
    assert (rules[0].quota, rules[0].window_us) == (10, SECOND_US // 10)
    # rounding a slot down would admit too much
    assert [rule.slot_us * 31 >= rule.window_us for rule in rules] == [True] * 3
    assert len({smooth.allowed_slot, smooth.limited_slot, smooth.observed_slot, everybody.allowed_slot}) == 4


def test_settings() -> None:
    (limit,) = compiled(
        Limit(
            "keys", ("header:X-Api-Key",), (Rate(5, SECOND_US),), missing="deny", cost=2, action="observe",
            on_store_failure="open", match=Match(path=("/login",)),
        )
    )  # fmt: skip
    assert (limit.parts, limit.missing) == ((("header", "X-Api-Key"),), "deny")
    assert (limit.cost, limit.observe, limit.on_failure) == (2, True, "open")
    assert limit.matcher is not None
    assert limit.needs_text
    assert limit.matcher(RequestText("GET", "", "/LOGIN/"))


def test_a_limit_of_every_request_has_nothing_to_match() -> None:
    (limit,) = compiled(Limit("all", ("client",), (Rate(5, SECOND_US),)))
    assert limit.matcher is None
    assert not limit.needs_text
    assert is_empty(Match())
    assert not is_empty(Match(method=("GET",)))


def test_a_large_rate_has_units() -> None:
    (limit,) = compiled(Limit("all", ("global",), (Rate(1_000_000, 86_400 * SECOND_US),)))
    assert limit.rules[0].quota >> limit.rules[0].shift < 1 << 16


def test_windows_of_overrides_are_windows_of_the_limit_and_the_ban_has_its_own() -> None:
    assert policy.windows_us(LIMIT) == (
        ("per-client", 10_000_000),
        ("per-client", 100_000),
        ("per-client", 60_000_000),
        ("per-client/ban", 60_000_000),
    )
    (limit,) = compiled(LIMIT)
    by_window = {rule.window_us: rule.limit_id for rule in limit.rules}
    assert limit.overrides[1][1][0].limit_id == by_window[10_000_000]
    assert limit.ban is not None
    assert limit.ban.limit_id not in by_window.values()


def test_places_have_a_window_of_no_length() -> None:
    assert policy.windows_us(Limit("places", per=("client",), concurrent=4)) == (("places", 0),)


def test_an_override_is_for_whoever_is_counted_by_the_same_key() -> None:
    prefixes = (32, 64)
    assert policy.override_value("client", "2001:db8::1", prefixes) == policy.override_value(
        "client", "2001:db8::ffff", prefixes
    )
    assert policy.override_value("client", "::ffff:192.0.2.1", prefixes) == policy.override_value(
        "client", "192.0.2.1", prefixes
    )
    assert policy.override_value("host", "SHOP.example.:8080", prefixes) == b"shop.example"
