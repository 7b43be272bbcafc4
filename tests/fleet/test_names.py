"""The names of keys: nothing but what an operator gave, and a hash; each limit's keys lie anywhere."""

from __future__ import annotations

import pytest
from redis.crc import key_slot

from ratelimitd.fleet import names


@pytest.mark.parametrize(
    ("window_us", "window"),
    [(10_000_000, "10s"), (3_600_000_000, "3600s"), (100_000, "100ms"), (1_500_000, "1500ms"), (7, "7us")],
)
def test_a_window_has_one_spelling(window_us: int, window: str) -> None:
    assert names.key_prefix("rl:", "per-client", window_us) == f"rl:{{per-client:{window}:".encode()


def test_all_keys_begin_with_the_prefix() -> None:
    assert names.nodes_key("site/") == b"site/{nodes}"
    assert names.secret_key("site/") == b"site/{secret}"
    assert names.changes_key("site/") == b"site/{changes}"


def test_keys_of_a_limit_are_spread_over_a_cluster() -> None:
    prefix = names.key_prefix("rl:", "per-client", 10_000_000)
    assert len({key_slot(prefix + b"%016x}" % number) for number in range(100)}) > 90
