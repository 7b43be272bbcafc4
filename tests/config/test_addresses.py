"""The URL of a store: what is one, and what is said of what is none."""

from __future__ import annotations

import pytest

from ratelimitd.config import addresses


@pytest.mark.parametrize(
    "url",
    [
        "memory",
        "redis://127.0.0.1",
        "redis://127.0.0.1:6379/0",
        "rediss://user:pass@redis.example:7000/",
        "redis://[2001:db8::1]:6379/15",
        "redis+unix:///run/redis/redis.sock",
        "redis+unix:///run/redis/redis.sock?db=2",
        "redis+sentinel://h1,h2:26380/NAME",
        "rediss+sentinel://:pass@h1/limits-1/2",
        "redis+cluster://h1,h2:7000",
        "rediss+cluster://h1/",
    ],
)
def test_store(url: str) -> None:
    assert addresses.store(url) == url


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1", "begins with none of"),
        ("redis:/127.0.0.1", "begins with none of"),
        ("redis://", "has no valid host"),
        ("redis://127.0.0.1:0", "has no port from 1 to 65535"),
        ("redis://127.0.0.1/zero", "has /zero behind the host, where the number of a database may stand"),
        ("redis://h1,h2", r"has several hosts \(did you mean redis\+sentinel:// or redis\+cluster://\?\)"),
        ("redis://h1?db=1", "has no valid host"),
        ("redis://u:pa/ss@h1", "has an @ behind a slash: in a password a slash is written %2F, and an @ %40"),
        ("redis+unix://run/redis.sock", "begins with none of"),
        ("redis+unix:///run/redis.sock?database=2", "has a query other than db=NUMBER"),
        ("redis+sentinel://h1,h2", "has nothing behind the host, where /NAME of the master belongs"),
        ("redis+sentinel://h1,,h2/limits", "has no valid host"),
        ("redis+cluster://h1/1", "has /1 behind the host, where nothing belongs, a cluster has one database"),
    ],
)
def test_store_that_is_none(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        addresses.store(url)


@pytest.mark.parametrize(
    ("url", "shown", "has_password", "hosts"),
    [
        ("memory", "memory", False, ()),
        ("redis://127.0.0.1", "redis://127.0.0.1", False, ("127.0.0.1",)),
        ("redis://user@h:7000/1", "redis://h:7000/1", False, ("h",)),
        ("rediss://u:p@[2001:db8::1]:7000", "rediss://[2001:db8::1]:7000", True, ("2001:db8::1",)),
        ("redis+sentinel://:p@ss@h1,h2:2/N", "redis+sentinel://h1,h2:2/N", True, ("h1", "h2")),
        ("redis+unix:///run/redis.sock?db=2", "redis+unix:///run/redis.sock?db=2", False, ()),
    ],
)
def test_what_a_store_names(url: str, shown: str, has_password: bool, hosts: tuple[str, ...]) -> None:
    assert addresses.without_login(url) == shown
    assert addresses.has_password(url) is has_password
    assert addresses.store_hosts(url) == hosts
