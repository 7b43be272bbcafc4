"""Which keys an operator's words mean: a mistyped address must not ban a path that everybody asks for."""

from __future__ import annotations

import pytest

from ratelimitd.config.model import Limit, Rate
from ratelimitd.control.keyring import Keyring
from ratelimitd.control.keytexts import Texts
from ratelimitd.limits.table import Table
from ratelimitd.segment import layout
from ratelimitd.segment.memory import Segment
from tests.control.daemon import config

LIMITS = tuple(
    Limit(name=name, per=per, rates=(Rate(5, 1_000_000),), missing="skip")
    for name, per in {
        "client": ("client",),
        "host": ("host",),
        "path": ("path",),
        "key": ("header:x-key",),
        "pair": ("client", "path"),
    }.items()
)


@pytest.fixture(scope="module")
def keyring() -> Keyring:
    segment = Segment.create(10_000, layout.FIRST_WORKER_PAGE + 1)
    shape = segment.table
    table = Table(segment.memory, shape.offset, shape.stripes, shape.buckets_per_stripe)
    return Keyring(segment, table, Texts(), lambda: config(limits=LIMITS))


@pytest.mark.parametrize(
    ("texts", "limits"),
    [
        (["203.0.113.9"], ["client"]),
        (["203.0.113.999"], ["host", "key"]),
        (["shop.example"], ["host", "key"]),
        (["/login"], ["host", "path", "key"]),
        (["203.0.113.9", "/login"], ["pair"]),
    ],
)
def test_what_words_mean_without_the_name_of_a_limit(
    keyring: Keyring, texts: list[str], limits: list[str]
) -> None:
    assert [key.limit.name for key in keyring.find(texts, None)] == limits


@pytest.mark.parametrize(
    ("texts", "limit", "error"),
    [
        (["login"], "path", "'login' is no path: it begins with no /"),
        (["shop.example"], "client", "'shop.example' is no address of a client"),
        (["203.0.113.9", "login"], None, "no limit counts by '203.0.113.9' and 'login'"),
    ],
)
def test_what_they_cannot_mean(keyring: Keyring, texts: list[str], limit: str | None, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        keyring.find(texts, limit)
