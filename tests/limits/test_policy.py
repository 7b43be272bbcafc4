"""A limit's windows and values, compiled: the same for whoever writes them in another way."""

from ratelimitd.config.model import Ban, Limit, Rate
from ratelimitd.limits import policy

LIMIT = Limit(
    "per-client",
    per=("client",),
    rates=(Rate(100, 10_000_000), Rate(10, 100_000)),
    overrides=(("192.0.2.1", (Rate(5, 60_000_000),)), ("192.0.2.2", (Rate(9, 10_000_000),))),
    ban=Ban(after=20, within_ms=60_000, for_ms=600_000),
)


def test_windows_of_overrides_are_windows_of_the_limit_and_the_ban_has_its_own() -> None:
    assert policy.windows_us(LIMIT) == (
        ("per-client", 10_000_000),
        ("per-client", 100_000),
        ("per-client", 60_000_000),
        ("per-client/ban", 60_000_000),
    )


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
